//! The archive format of initial file systems ("newc": Documentation/driver-api/early-userspace/buffer-format.rst).

const DIRECTORY: u32 = 0o040_755;
const SYMLINK: u32 = 0o120_777;
const CHARACTER_DEVICE: u32 = 0o020_600;
const REGULAR: u32 = 0o100_000;

/// An archive that grows; paths are relative to the root, and directories come before what is in them.
#[derive(Debug, Default)]
pub(super) struct Archive {
    bytes: Vec<u8>,
    dirs: Vec<String>,
    entries: u32,
}

impl Archive {
    /// A file with these permissions.
    pub(super) fn file(&mut self, path: &str, permissions: u32, content: &[u8]) {
        self.parents(path);
        self.entry(path, REGULAR | permissions, (0, 0), content);
    }

    /// A directory, and those above it.
    pub(super) fn dir(&mut self, path: &str) {
        if !self.dirs.iter().any(|dir| dir == path) {
            self.parents(path);
            self.entry(path, DIRECTORY, (0, 0), &[]);
            self.dirs.push(path.to_owned());
        }
    }

    /// A symbolic link.
    pub(super) fn symlink(&mut self, path: &str, target: &str) {
        self.parents(path);
        self.entry(path, SYMLINK, (0, 0), target.as_bytes());
    }

    /// A character device by its numbers.
    pub(super) fn device(&mut self, path: &str, (major, minor): (u32, u32)) {
        self.parents(path);
        self.entry(path, CHARACTER_DEVICE, (major, minor), &[]);
    }

    /// The bytes, ended as the format wants it.
    pub(super) fn finish(mut self) -> Vec<u8> {
        self.entry("TRAILER!!!", 0, (0, 0), &[]);
        self.bytes
    }

    fn parents(&mut self, path: &str) {
        if let Some((parent, _)) = path.rsplit_once('/') {
            self.dir(parent);
        }
    }

    fn entry(&mut self, path: &str, mode: u32, (major, minor): (u32, u32), content: &[u8]) {
        self.entries += 1;
        // Inode, mode, user, group, links, time, size, device (2), device of the node (2), length of the name, check.
        let numbers =
            [self.entries, mode, 0, 0, 1, 0, length(content), 0, 0, major, minor, length(path.as_bytes()) + 1, 0];
        self.bytes.extend_from_slice(b"070701");
        for number in numbers {
            self.bytes.extend_from_slice(format!("{number:08x}").as_bytes());
        }
        self.bytes.extend_from_slice(path.as_bytes());
        self.bytes.push(0);
        self.pad();
        self.bytes.extend_from_slice(content);
        self.pad();
    }

    fn pad(&mut self) {
        self.bytes.resize(self.bytes.len().next_multiple_of(4), 0);
    }
}

/// Nothing that goes into a guest of 512 MiB is as long as 4 GiB.
fn length(bytes: &[u8]) -> u32 {
    u32::try_from(bytes.len()).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Name, mode and content of each entry, read back independently of how they are written.
    fn entries(archive: &[u8]) -> Vec<(String, u32, Vec<u8>)> {
        let mut found = Vec::new();
        let mut at = 0;
        while at < archive.len() {
            assert_eq!(&archive[at..at + 6], b"070701", "at {at}");
            let number = |index: usize| {
                let field = &archive[at + 6 + index * 8..][..8];
                usize::from_str_radix(std::str::from_utf8(field).unwrap(), 16).unwrap()
            };
            let (name, size) = (number(11), number(6));
            let content = (at + 110 + name).next_multiple_of(4);
            let text = String::from_utf8(archive[at + 110..at + 110 + name - 1].to_vec()).unwrap();
            found.push((text, u32::try_from(number(1)).unwrap(), archive[content..content + size].to_vec()));
            at = (content + size).next_multiple_of(4);
        }
        found
    }

    #[test]
    fn what_goes_in_comes_out_with_its_directories_before_it() {
        let mut archive = Archive::default();
        archive.file("a/b/c", 0o755, b"12345");
        archive.file("a/d", 0o644, b"");
        archive.symlink("lib64", "usr/lib64");
        archive.device("dev/console", (5, 1));
        let found = entries(&archive.finish());
        let names: Vec<&str> = found.iter().map(|(name, ..)| name.as_str()).collect();
        assert_eq!(names, ["a", "a/b", "a/b/c", "a/d", "lib64", "dev", "dev/console", "TRAILER!!!"]);
        assert_eq!(found[2].1, 0o100_755);
        assert_eq!(found[2].2, b"12345");
        assert_eq!(found[4].2, b"usr/lib64");
        assert_eq!(found[6].1, 0o020_600);
    }
}
