//! The kernels that there are, by the names that people give them.

/// What a kernel is there to show.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Suite {
    /// The packet tests pass, and traffic goes through the agent: `guest/works/`.
    Works,
    /// The agent refuses to start: `guest/refused/`.
    Refused,
}

impl Suite {
    /// The name of its directory, and what the guest is told.
    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Works => "works",
            Self::Refused => "refused",
        }
    }
}

/// A kernel by its release; which build of it comes out of the archive is not known before.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Release {
    /// First numbers of the version, as on the command line.
    pub(super) name: &'static str,
    /// Debian's package that depends on the newest build.
    pub(super) package: &'static str,
    pub(super) suite: Suite,
}

/// Debian's releases with these kernels, oldest first.
pub(super) const ALL: [Release; 3] = [
    Release { name: "5.10", package: "linux-image-cloud-amd64", suite: Suite::Refused },
    Release { name: "6.1", package: "linux-image-cloud-amd64", suite: Suite::Works },
    Release { name: "6.12", package: "linux-image-6.12-cloud-amd64", suite: Suite::Works },
];

/// A word of the command line.
pub(crate) fn parse(name: &str) -> Result<Release, String> {
    let names = || ALL.map(|release| release.name).join(", ");
    ALL.into_iter().find(|release| release.name == name).ok_or_else(|| format!("there are the kernels {}", names()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_kernel_is_found_by_its_name_and_others_are_refused() {
        for release in ALL {
            assert_eq!(parse(release.name), Ok(release));
        }
        for name in ["6", "6.1.0", "6.13", ""] {
            assert!(parse(name).unwrap_err().contains("6.12"), "{name:?}");
        }
    }
}
