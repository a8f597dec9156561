//! A request body as a tree, whatever its encoding: what a form and a JSON body have in common.

use std::collections::BTreeMap;

use serde_json::Number;

use crate::artifacts::Upload;

/// One value of a body. A form knows only texts and files; JSON has no files.
#[derive(Clone, Debug, PartialEq)]
pub enum Node {
    Null,
    Bool(bool),
    Number(Number),
    Text(String),
    File(Upload),
    List(Vec<Node>),
    Object(Fields),
}

pub type Fields = BTreeMap<String, Node>;

impl Node {
    /// For messages: "expected a string, but got {this}".
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Null => "null",
            Self::Bool(_) => "a boolean",
            Self::Number(number) if number.is_f64() => "a decimal number",
            Self::Number(_) => "an integer",
            Self::Text(_) => "a string",
            Self::File(_) => "a file",
            Self::List(_) => "an array",
            Self::Object(_) => "an object",
        }
    }
}

impl From<serde_json::Value> for Node {
    /// Line ends become LF here, because one of the official clients sends CRLF and one does not.
    fn from(value: serde_json::Value) -> Self {
        use serde_json::Value;
        match value {
            Value::Null => Self::Null,
            Value::Bool(bool) => Self::Bool(bool),
            Value::Number(number) => Self::Number(number),
            Value::String(text) => Self::Text(unix_lines(text)),
            Value::Array(items) => Self::List(items.into_iter().map(Self::from).collect()),
            Value::Object(fields) => Self::Object(
                fields
                    .into_iter()
                    .map(|(key, value)| (key, value.into()))
                    .collect(),
            ),
        }
    }
}

/// CRLF to LF.
pub fn unix_lines(text: String) -> String {
    if text.contains("\r\n") {
        text.replace("\r\n", "\n")
    } else {
        text
    }
}
