//! Connections in files.

use std::{fs, path::Path};

use anyhow::{Context as _, Result};
use steer_common::sim::{Connection, format, parse};

/// Reads the connections of a file.
pub(crate) fn read(file: &Path) -> Result<Vec<Connection>> {
    let text =
        fs::read_to_string(file).with_context(|| format!("failed to read {}", file.display()))?;
    Ok(parse(&file.display().to_string(), &text)?)
}

/// Writes connections as [`read`] takes them.
pub(crate) fn write(file: &Path, connections: &[Connection]) -> Result<()> {
    fs::write(file, format(connections))
        .with_context(|| format!("failed to write {}", file.display()))
}
