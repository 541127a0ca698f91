//! The JSON Schema of a log line.

/// The JSON Schema (draft 2020-12) of a line in the format `json`; also `schemas/log-line.schema.json`.
pub const LINE_SCHEMA: &str = include_str!("../schemas/log-line.schema.json");
