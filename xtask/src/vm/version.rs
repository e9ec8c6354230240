//! Versions of kernels, and series of them.

use std::str::FromStr;

use anyhow::{Result, ensure};

/// The numbers of a version as `uname -r` has it, in order. Versions are sorted by them.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Version(Vec<u64>);

impl Version {
    pub(super) fn new(release: &str) -> Self {
        // What follows -cloud, as in -cloud-amd64, isn't part of the version.
        let release = release.split("-cloud").next().unwrap_or(release);
        let numbers = release
            .split(|c: char| !c.is_ascii_digit())
            .filter_map(|number| number.parse().ok());
        Self(numbers.collect())
    }

    /// The first three numbers of the version; 0 for each that is missing.
    pub(super) fn triple(&self) -> [u64; 3] {
        [0, 1, 2].map(|place| self.0.get(place).copied().unwrap_or(0))
    }
}

/// All versions that begin with certain numbers. There are one to three of these numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Series {
    numbers: [u64; 3],
    count: usize,
}

impl Series {
    pub(super) fn contains(self, version: &Version) -> bool {
        version.triple()[..self.count] == self.numbers[..self.count]
    }
}

impl FromStr for Series {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> Result<Self> {
        let mut series = Self {
            numbers: [0; 3],
            count: 0,
        };
        for number in text.split('.') {
            ensure!(series.count < 3, "a series has one to three numbers");
            series.numbers[series.count] = number.parse()?;
            series.count += 1;
        }
        Ok(series)
    }
}

impl std::fmt::Display for Series {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let numbers = self.numbers[..self.count].iter().map(u64::to_string);
        f.write_str(&numbers.collect::<Vec<_>>().join("."))
    }
}

#[cfg(test)]
mod tests {
    use super::{Series, Version};

    #[test]
    fn versions_are_sorted_by_their_numbers() {
        let sorted = [
            "6.1.0-0.deb11.52-cloud-amd64",
            "6.1.0-9-cloud-amd64",
            "6.1.0-56-cloud-amd64",
            "6.12.94+deb12-cloud-amd64",
            "6.12.117+deb12-cloud-amd64",
            "6.12.117+deb12.1-cloud-amd64",
        ];
        assert!(sorted.map(Version::new).is_sorted());
    }

    #[test]
    fn a_series_is_a_prefix_in_whole_numbers() {
        let contains = |series: &str, release| {
            let series: Series = series.parse().expect("a series");
            series.contains(&Version::new(release))
        };
        assert!(contains("6.1", "6.1.0-56-cloud-amd64"));
        assert!(!contains("6.1", "6.12.117+deb12-cloud-amd64"));
        assert!(contains("7", "7.3.4+deb13-cloud-amd64"));
        assert!(contains("6.18.15", "6.18.15+deb13-cloud-amd64"));
        assert!(!contains("6.18.15", "6.18.12+deb13-cloud-amd64"));
        for bad in ["", "6.", "six", "6.1.2.3", "6.1-3"] {
            assert!(bad.parse::<Series>().is_err(), "{bad}");
        }
    }
}
