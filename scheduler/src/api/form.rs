//! `multipart/form-data` to a tree: the bracket rules of both official clients.
//!
//! ```text
//! prompt=…                          a scalar
//! metadata[show]=pilot              an object
//! x[]=1  x[]=2                      an array of scalars, in order
//! shots[][prompt]=a shots[][seconds]=4 shots[][prompt]=b shots[][seconds]=8
//!                                   an array of objects: the i-th of a column belongs to element i
//! shots[0][prompt]=a                the same with indexes
//! ```
//! Python groups the columns by key, Node interleaves them by object; reading columns fits both.
//! A rule such as "a repeated key opens a new object" would tear Python's order apart.

use std::{collections::BTreeMap, path::PathBuf};

use axum::extract::{Multipart, multipart::Field};

use super::{
    body::JSON_BYTES_MAX,
    node::{Fields, Node, unix_lines},
};
use crate::{
    admission::{Code, Refusal},
    artifacts::{Incoming, Upload},
};

/// Parts of one form.
pub const PARTS_MAX: usize = 256;
/// Bytes of header of one part.
pub const PART_HEADER_BYTES_MAX: usize = 64 << 10;
/// Bytes of a text part.
pub const TEXT_BYTES_MAX: usize = 1 << 20;
/// Characters of `input_reference[image_url]`, the one text that may be longer.
pub const IMAGE_URL_CHARS_MAX: usize = 20_971_520;
/// Brackets behind one name.
const DEPTH_MAX: usize = 4;

/// One part, read.
#[derive(Clone, Debug, PartialEq)]
pub struct Part {
    pub name: String,
    pub value: PartValue,
}

#[derive(Clone, Debug, PartialEq)]
pub enum PartValue {
    Text(String),
    /// Had a `filename`; the name itself and the declared type are not trusted and not kept.
    File(Upload),
}

/// Reads all parts of a form, in any order, and builds the tree. Large files lie in `folder`, or in memory without one.
pub async fn read_form(mut form: Multipart, folder: Option<PathBuf>) -> Result<Fields, Refusal> {
    let mut tree = FormTree::default();
    let mut parts = 0;
    while let Some(field) = form.next_field().await.map_err(broken)? {
        parts += 1;
        if parts > PARTS_MAX {
            return Err(too_large(format!(
                "a form may have at most {PARTS_MAX} parts"
            )));
        }
        let header_bytes: usize = field
            .headers()
            .iter()
            .map(|(name, value)| name.as_str().len() + value.len() + 4)
            .sum();
        if header_bytes > PART_HEADER_BYTES_MAX {
            return Err(too_large(format!(
                "the header of a part may have at most {PART_HEADER_BYTES_MAX} bytes"
            )));
        }
        let Some(name) = field.name().map(str::to_owned) else {
            return Err(Refusal::new(
                Code::InvalidMultipart,
                "A part of the form has no name.",
            ));
        };
        let value = match field.file_name() {
            Some(_) => PartValue::File(file(field, folder.clone()).await?),
            None => PartValue::Text(text(field, &name).await?),
        };
        tree.insert(Part { name, value })?;
    }
    tree.finish()
}

fn broken(error: axum::extract::multipart::MultipartError) -> Refusal {
    Refusal::new(
        Code::InvalidMultipart,
        format!(
            "The multipart body cannot be read: {}.",
            error.body_text().trim_end_matches('.')
        ),
    )
}

fn too_large(why: String) -> Refusal {
    Refusal::new(Code::RequestTooLarge, format!("Request too large: {why}."))
}

async fn file(mut field: Field<'_>, folder: Option<PathBuf>) -> Result<Upload, Refusal> {
    let unkept = |error: std::io::Error| {
        tracing::error!(%error, "a file of a request cannot be kept");
        Refusal::new(
            Code::Overloaded,
            "The server has no room for this file right now; try again later.",
        )
    };
    let mut incoming = Incoming::new(folder);
    while let Some(piece) = field.chunk().await.map_err(broken)? {
        incoming.push(&piece).await.map_err(unkept)?;
    }
    incoming.finish().await.map_err(unkept)
}

async fn text(mut field: Field<'_>, name: &str) -> Result<String, Refusal> {
    let mut bytes = Vec::new();
    while let Some(piece) = field.chunk().await.map_err(broken)? {
        bytes.extend_from_slice(&piece);
        let limit = text_limit(name, &bytes);
        if bytes.len() > limit {
            return Err(too_large(format!("'{name}' may have at most {limit} bytes")).about(name));
        }
    }
    let text = String::from_utf8(bytes).map_err(|_| {
        Refusal::new(
            Code::InvalidMultipart,
            format!("The text of '{name}' is not UTF-8."),
        )
        .about(name)
    })?;
    Ok(unix_lines(text))
}

/// Bytes of the text of a part that begins so. The exact limit of an image URL counts characters and is checked where
/// the field is read.
fn text_limit(name: &str, start: &[u8]) -> usize {
    match start.first() {
        Some(b'{' | b'[') => JSON_BYTES_MAX,
        _ if name.ends_with("[image_url]") => IMAGE_URL_CHARS_MAX * 4,
        _ => TEXT_BYTES_MAX,
    }
}

/// The tree while parts still come.
#[derive(Default)]
pub struct FormTree(BTreeMap<String, Branch>);

enum Branch {
    Leaf(PartValue),
    Object(BTreeMap<String, Branch>),
    /// `x[]`
    Items(Vec<PartValue>),
    /// `x[][k]`, by the keys behind the empty bracket.
    Columns(BTreeMap<Vec<String>, Vec<PartValue>>),
}

impl FormTree {
    pub fn insert(&mut self, part: Part) -> Result<(), Refusal> {
        let (base, brackets) = split_name(&part.name)?;
        let indexed = brackets.first().is_some_and(|key| is_index(key));
        if base == "input_reference" && indexed {
            return Err(buffer_refusal());
        }
        insert(&mut self.0, base, &brackets, part.value, &part.name)
    }

    pub fn finish(self) -> Result<Fields, Refusal> {
        self.0
            .into_iter()
            .map(|(name, branch)| Ok((name.clone(), branch.finish(&name)?)))
            .collect()
    }
}

/// A Node `Buffer` was given where a file is due, and came as one part for each byte.
pub fn buffer_refusal() -> Refusal {
    Refusal::wrong_type(
        "input_reference",
        "expected a file, but got one part for each byte: wrap the buffer with toFile",
    )
}

fn is_index(key: &str) -> bool {
    !key.is_empty() && key.bytes().all(|byte| byte.is_ascii_digit())
}

/// `a[b][]` to `a` and `["b", ""]`.
fn split_name(name: &str) -> Result<(&str, Vec<&str>), Refusal> {
    let bad = || {
        let shown: String = name.chars().take(80).collect();
        Refusal::new(
            Code::InvalidMultipart,
            format!("The field name '{shown}' cannot be read."),
        )
    };
    let Some(open) = name.find('[') else {
        return Ok((name, Vec::new()));
    };
    let (base, rest) = name.split_at(open);
    let inner = rest
        .strip_prefix('[')
        .and_then(|rest| rest.strip_suffix(']'))
        .ok_or_else(bad)?;
    let brackets: Vec<&str> = inner.split("][").collect();
    let clean = brackets.iter().all(|key| !key.contains(['[', ']']));
    if base.is_empty() || !clean || brackets.len() > DEPTH_MAX {
        return Err(bad());
    }
    Ok((base, brackets))
}

fn ambiguous(name: &str) -> Refusal {
    let base = name.split('[').next().unwrap_or(name);
    Refusal::new(
        Code::AmbiguousArray,
        format!(
            "The parts of '{base}' do not say which element each belongs to; send '{base}' as one \
             part with JSON text, or the whole request as JSON."
        ),
    )
    .about(base)
}

fn insert(
    level: &mut BTreeMap<String, Branch>,
    key: &str,
    brackets: &[&str],
    value: PartValue,
    name: &str,
) -> Result<(), Refusal> {
    let slot = level.get_mut(key);
    match (brackets, slot) {
        ([], None) => {
            level.insert(key.to_owned(), Branch::Leaf(value));
        }
        ([], Some(Branch::Leaf(_))) => {
            return Err(Refusal::wrong_value(name, "it was sent more than once"));
        }
        ([""], None) => {
            level.insert(key.to_owned(), Branch::Items(vec![value]));
        }
        ([""], Some(Branch::Items(items))) => items.push(value),
        (["", column @ ..], slot) => {
            if column.is_empty() || column.contains(&"") {
                return Err(ambiguous(name));
            }
            let path = column.iter().map(|&key| key.to_owned()).collect();
            match slot {
                None => {
                    let columns = BTreeMap::from([(path, vec![value])]);
                    level.insert(key.to_owned(), Branch::Columns(columns));
                }
                Some(Branch::Columns(columns)) => columns.entry(path).or_default().push(value),
                Some(_) => return Err(ambiguous(name)),
            }
        }
        ([next, rest @ ..], None) => {
            let mut inner = BTreeMap::new();
            insert(&mut inner, next, rest, value, name)?;
            level.insert(key.to_owned(), Branch::Object(inner));
        }
        ([next, rest @ ..], Some(Branch::Object(inner))) => insert(inner, next, rest, value, name)?,
        _ => return Err(ambiguous(name)),
    }
    Ok(())
}

impl Branch {
    fn finish(self, name: &str) -> Result<Node, Refusal> {
        match self {
            Self::Leaf(value) => Ok(value.into()),
            Self::Items(items) => Ok(Node::List(items.into_iter().map(Node::from).collect())),
            Self::Columns(columns) => rows(columns, name),
            Self::Object(fields) => {
                let fields: Result<Fields, Refusal> = fields
                    .into_iter()
                    .map(|(key, branch)| Ok((key, branch.finish(name)?)))
                    .collect();
                Ok(Node::Object(fields?))
            }
        }
    }
}

impl From<PartValue> for Node {
    fn from(value: PartValue) -> Self {
        match value {
            PartValue::Text(text) => Self::Text(text),
            PartValue::File(file) => Self::File(file),
        }
    }
}

/// Columns of equal length to a list of objects.
fn rows(columns: BTreeMap<Vec<String>, Vec<PartValue>>, name: &str) -> Result<Node, Refusal> {
    let length = columns.values().map(Vec::len).max().unwrap_or(0);
    if columns.values().any(|column| column.len() != length) {
        return Err(ambiguous(name));
    }
    let mut elements = vec![BTreeMap::new(); length];
    for (path, column) in columns {
        for (element, value) in elements.iter_mut().zip(column) {
            place(element, &path, value.into()).ok_or_else(|| ambiguous(name))?;
        }
    }
    Ok(Node::List(elements.into_iter().map(Node::Object).collect()))
}

/// Puts a value at a path of keys; `None` when another value is in the way.
fn place(element: &mut Fields, path: &[String], value: Node) -> Option<()> {
    let (key, rest) = path.split_first()?;
    if rest.is_empty() {
        return element.insert(key.clone(), value).is_none().then_some(());
    }
    match element
        .entry(key.clone())
        .or_insert_with(|| Node::Object(Fields::new()))
    {
        Node::Object(inner) => place(inner, rest, value),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use expect_test::{Expect, expect};

    use super::*;

    /// `name=value` a line; a value `<file>` is a file part.
    fn check(script: &str, expected: Expect) {
        let mut tree = FormTree::default();
        let parsed = script
            .lines()
            .map(str::trim)
            .filter(|line| !line.is_empty())
            .try_for_each(|line| {
                let (name, value) = line.split_once('=').expect("name=value");
                let value = match value {
                    "<file>" => PartValue::File(Upload::of("bytes".into())),
                    text => PartValue::Text(text.into()),
                };
                tree.insert(Part {
                    name: name.into(),
                    value,
                })
            })
            .and_then(|()| tree.finish());
        let shown = match parsed {
            Ok(fields) => show(&Node::Object(fields)),
            Err(refusal) => {
                format!("{refusal} [{}]", refusal.param.clone().unwrap_or_default())
            }
        };
        expected.assert_eq(&shown);
    }

    fn show(node: &Node) -> String {
        let join = |items: Vec<String>| items.join(", ");
        match node {
            Node::List(items) => format!("[{}]", join(items.iter().map(show).collect())),
            Node::Object(fields) => format!(
                "{{{}}}",
                join(
                    fields
                        .iter()
                        .map(|(k, v)| format!("{k}: {}", show(v)))
                        .collect()
                )
            ),
            Node::Text(text) => format!("{text:?}"),
            Node::File(file) => format!("file of {} bytes", file.size()),
            other => other.kind().into(),
        }
    }

    #[test]
    fn scalars_objects_and_files() {
        check(
            "prompt=a ball\nmetadata[k]=v\nmetadata[0]=w\ninput_reference=<file>\nmodel=",
            expect![[
                r#"{input_reference: file of 5 bytes, metadata: {0: "w", k: "v"}, model: "", prompt: "a ball"}"#
            ]],
        );
        check(
            "input_reference[image_url]=data:x",
            expect![[r#"{input_reference: {image_url: "data:x"}}"#]],
        );
    }

    #[test]
    fn arrays_in_python_order_node_order_and_by_index_are_the_same() {
        let same = r#"{shots: [{prompt: "a", seconds: "4"}, {prompt: "b", seconds: "8"}]}"#;
        for script in [
            "shots[][prompt]=a\nshots[][prompt]=b\nshots[][seconds]=4\nshots[][seconds]=8",
            "shots[][prompt]=a\nshots[][seconds]=4\nshots[][prompt]=b\nshots[][seconds]=8",
        ] {
            let mut expected = expect![[""]];
            expected.data = same;
            check(script, expected);
        }
        check(
            "shots[1][prompt]=b\nshots[0][prompt]=a",
            expect![[r#"{shots: {0: {prompt: "a"}, 1: {prompt: "b"}}}"#]],
        );
        check("x[]=1\nx[]=2", expect![[r#"{x: ["1", "2"]}"#]]);
        check(
            "shots[][input_reference][image_url]=u\nshots[][prompt]=a",
            expect![[r#"{shots: [{input_reference: {image_url: "u"}, prompt: "a"}]}"#]],
        );
    }

    #[test]
    fn what_does_not_say_its_element_is_refused() {
        let ragged = expect![[
            r#"ambiguous_array: The parts of 'shots' do not say which element each belongs to; send 'shots' as one part with JSON text, or the whole request as JSON. [shots]"#
        ]];
        for script in [
            "shots[][prompt]=a\nshots[][prompt]=b\nshots[][seconds]=4",
            "shots[][characters][]=a",
            "shots[][prompt]=a\nshots[0][prompt]=b",
            "shots[]=a\nshots[][prompt]=b",
            "shots=a\nshots[][prompt]=b",
            "shots[][a]=1\nshots[][a][b]=2",
        ] {
            let mut expected = expect![[""]];
            expected.data = ragged.data;
            check(script, expected);
        }
    }

    #[test]
    fn bad_names_and_buffers_are_refused() {
        check(
            "input_reference[0]=80\ninput_reference[1]=78",
            expect![[
                r#"invalid_type: Invalid type for 'input_reference': expected a file, but got one part for each byte: wrap the buffer with toFile. [input_reference]"#
            ]],
        );
        check(
            "prompt=a\nprompt=b",
            expect![[
                r#"invalid_value: Invalid value for 'prompt': it was sent more than once. [prompt]"#
            ]],
        );
        check(
            "a[b=1",
            expect![[r#"invalid_multipart: The field name 'a[b' cannot be read. []"#]],
        );
        check(
            "[b]=1",
            expect![[r#"invalid_multipart: The field name '[b]' cannot be read. []"#]],
        );
        check(
            "a[b][c][d][e][f]=1",
            expect![[r#"invalid_multipart: The field name 'a[b][c][d][e][f]' cannot be read. []"#]],
        );
    }
}
