//! The verbs, one file each. They print; they decide nothing.
//!
//! Exit codes: 0 all well, 1 a problem was found, 2 a failure of this program or its
//! configuration, 3 wrong usage or nothing known.

pub mod doctor;
pub mod identity;
pub mod probe;
pub mod run;
pub mod show;

use std::io::{self, Write};

/// Version of what `--json` prints.
pub const JSON_SCHEMA: u32 = 1;

/// How a verb ended; the number is the exit code.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Exit {
    /// All well.
    Ok = 0,
    /// A problem was found.
    Problem = 1,
    /// A failure of this program or its configuration.
    Failure = 2,
    /// Wrong usage, or nothing is known.
    Unknown = 3,
}

/// Prints one line on the standard output.
///
/// # Errors
/// When it is closed.
pub fn say(text: impl std::fmt::Display) -> io::Result<()> {
    writeln!(io::stdout().lock(), "{text}")
}

/// Prints a JSON document with its schema version.
///
/// # Errors
/// When the output is closed.
pub fn say_json(mut value: serde_json::Value) -> io::Result<()> {
    if let Some(fields) = value.as_object_mut() {
        fields.insert("schema".to_owned(), JSON_SCHEMA.into());
    }
    say(value)
}
