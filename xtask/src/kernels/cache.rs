//! Directories of unpacked packages, each whole or not there, with a stamp that says what is in it.

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result};

const STAMP: &str = ".contents";

/// `target/kernels`.
#[derive(Debug)]
pub(super) struct Cache {
    dir: PathBuf,
}

impl Cache {
    pub(super) fn new(dir: PathBuf) -> Self {
        Self { dir }
    }

    /// A directory or file in it that is no entry.
    pub(super) fn path(&self, name: &str) -> PathBuf {
        self.dir.join(name)
    }

    /// What an entry has, if it is there.
    pub(super) fn contents(&self, entry: &str) -> Option<String> {
        fs::read_to_string(self.dir.join(entry).join(STAMP)).ok()
    }

    /// The directory of an entry with these contents: as it is, or filled anew.
    pub(super) fn fill(&self, entry: &str, contents: &str, fill: impl FnOnce(&Path) -> Result<()>) -> Result<PathBuf> {
        let dir = self.dir.join(entry);
        if self.contents(entry).as_deref() == Some(contents) {
            return Ok(dir);
        }
        let new = self.dir.join(format!("{entry}.new"));
        let _ = fs::remove_dir_all(&new);
        fs::create_dir_all(&new).with_context(|| format!("the directory {}", new.display()))?;
        fill(&new)?;
        fs::write(new.join(STAMP), contents)?;
        let _ = fs::remove_dir_all(&dir);
        fs::rename(&new, &dir).with_context(|| format!("the directory {}", dir.display()))?;
        Ok(dir)
    }
}

#[cfg(test)]
mod tests {
    use anyhow::bail;

    use super::*;

    #[test]
    fn an_entry_is_filled_once_and_kept_when_another_cannot_be_had() {
        let cache = Cache::new(std::env::temp_dir().join(format!("xtask-cache-{}", std::process::id())));
        let write = |dir: &Path| Ok(fs::write(dir.join("file"), "old")?);
        let dir = cache.fill("a", "1", write).unwrap();
        cache.fill("a", "1", |_| bail!("must not be called")).unwrap();
        assert!(cache.fill("a", "2", |_| bail!("offline")).is_err());
        assert_eq!(cache.contents("a").as_deref(), Some("1"));
        assert_eq!(fs::read_to_string(dir.join("file")).unwrap(), "old");
        cache.fill("a", "2", |dir| Ok(fs::write(dir.join("file"), "new")?)).unwrap();
        assert_eq!(fs::read_to_string(dir.join("file")).unwrap(), "new");
        fs::remove_dir_all(&cache.dir).unwrap();
    }
}
