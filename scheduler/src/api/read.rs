//! The tree of a body to a [`VideoRequest`]: types are checked here, values in admission.
//!
//! A form has only texts, so a text is accepted for a number or a boolean when it reads as one.
//! An object or an array may come as one text part with JSON inside.

use super::{
    estimate::COUNT_MAX,
    node::{Fields, Node},
    read_given::{is_film, is_sound, keyframes, reference, retake, source, take_id},
};
use crate::{
    admission::{
        Code, Lineage, Operation, Priority, ReferenceFit, Refusal, ShotRequest, VideoRequest,
    },
    artifacts::Upload,
};

/// Fields of the wire that other servers have and this one does not.
const NOT_SERVED: [&str; 7] = [
    "audio",
    "quality",
    "retention_seconds",
    "size_policy",
    "webhook_events",
    "webhook_secret",
    "webhook_url",
];

/// Fields of the create body that do something.
const CREATE_FIELDS: &[&str] = &[
    "prompt",
    "model",
    "seconds",
    "size",
    "input_reference",
    "characters",
    "seed",
    "negative_prompt",
    "steps",
    "num_inference_steps",
    "guidance_scale",
    "metadata",
    "shots",
    "reference_fit",
    "dry_run",
    "priority",
    "start",
    "not_before",
    "deadline",
    "devices",
    "user",
    "quote",
    "last_reference",
    "keyframes",
    "reference_strength",
    "audio_reference",
    "video_reference",
    "retake",
    "strength",
    "context_seconds",
];
/// Fields of whatever is made of a video: the rest comes from that video.
const DERIVED_FIELDS: &[&str] = &[
    "prompt",
    "seed",
    "negative_prompt",
    "steps",
    "num_inference_steps",
    "guidance_scale",
    "metadata",
    "dry_run",
    "priority",
    "start",
    "not_before",
    "deadline",
    "user",
    "quote",
    "devices",
    "video",
];
/// Further ones of a remix and of an edit.
const REMIX_FIELDS: &[&str] = &["audio_reference", "retake", "strength"];
/// Further ones of an extension.
const EXTENSION_FIELDS: &[&str] = &[
    "seconds",
    "last_reference",
    "keyframes",
    "reference_strength",
    "reference_fit",
    "context_seconds",
];
/// Fields that old programs send and that change nothing.
const IGNORED_FIELDS: &[&str] = &["safety_identifier", "n"];
const SHOT_FIELDS: &[&str] = &[
    "prompt",
    "seconds",
    "seed",
    "negative_prompt",
    "input_reference",
    "join",
    "characters",
];
/// For how many films an estimate is asked: one request `count` times, or one for each of `prompts`.
#[derive(Clone, Debug)]
pub struct Many {
    pub count: u32,
    pub prompts: Vec<String>,
}

impl Default for Many {
    fn default() -> Self {
        Self {
            count: 1,
            prompts: Vec::new(),
        }
    }
}

impl Many {
    /// A job is one film.
    pub fn refuse(&self) -> Result<(), Refusal> {
        let name = match (self.count, self.prompts.is_empty()) {
            (1, true) => return Ok(()),
            (1, false) => "prompts",
            _ => "count",
        };
        Err(Refusal::wrong_value(
            name,
            "only an estimate is for several films; send one request for each",
        ))
    }
}

/// Takes `count` and `prompts` out of the body of an estimate.
pub fn read_many(fields: &mut Fields) -> Result<Many, Refusal> {
    let within = |count: i64| {
        u32::try_from(count)
            .ok()
            .filter(|n| (1..=COUNT_MAX).contains(n))
    };
    let wrong =
        |name| Refusal::wrong_value(name, format!("1 to {COUNT_MAX} films can be estimated"));
    let count = integer(fields, "count", "")?.unwrap_or(1);
    let count = within(count).ok_or_else(|| wrong("count"))?;
    let prompts = match fields.remove("prompts").map(json_inside) {
        None | Some(Node::Null) => {
            return Ok(Many {
                count,
                prompts: Vec::new(),
            });
        }
        Some(Node::List(items)) => items,
        Some(other) => return Err(expected("an array", &other, "prompts")),
    };
    let text = |(place, node): (usize, Node)| match node {
        Node::Text(text) => Ok(text),
        other => Err(expected("a string", &other, &format!("prompts[{place}]"))),
    };
    let prompts: Vec<String> = prompts
        .into_iter()
        .enumerate()
        .map(text)
        .collect::<Result<_, _>>()?;
    if count > 1 || within(prompts.len() as i64).is_none() {
        return Err(wrong("prompts"));
    }
    fields
        .entry("prompt".into())
        .or_insert_with(|| Node::Text(prompts[0].clone()));
    Ok(Many { count, prompts })
}

/// A request to make a video of another.
pub struct Derived {
    pub video: Parent,
    pub wish: VideoRequest,
}

/// The other video.
pub enum Parent {
    /// Id of one of the farm's own.
    Own(String),
    /// One that came with the request.
    Sent(Upload),
}

/// Reads the body of a remix (whose video the path names), an edit or an extension.
pub fn read_derived(
    mut fields: Fields,
    operation: Operation,
    video: Option<String>,
) -> Result<Derived, Refusal> {
    let known = match operation {
        Operation::Extend => EXTENSION_FIELDS,
        _ => REMIX_FIELDS,
    };
    // An uploaded video has no model of its own; with another an edit may name one, and it changes nothing.
    let is_sent = matches!(fields.get("video"), Some(Node::File(_)));
    let model = match is_sent || operation == Operation::Edit {
        true => text(&mut fields, "model", "")?,
        false => None,
    };
    refuse_unknown(&fields, "", &[DERIVED_FIELDS, known, IGNORED_FIELDS])?;
    let video = parent(&mut fields, video)?;
    let wish = VideoRequest {
        model,
        ..read_request(fields)?
    };
    Ok(Derived { video, wish })
}

/// The video that the path names or the body gives.
fn parent(fields: &mut Fields, path: Option<String>) -> Result<Parent, Refusal> {
    let id = take_id(fields, "video")?;
    let film = source(fields, "video", is_film)?.and_then(|film| film.upload);
    match (path, id, film) {
        (Some(_), Some(_), _) | (Some(_), _, Some(_)) => {
            Err(Refusal::wrong_value("video", "the path names it already"))
        }
        (Some(id), None, None) | (None, Some(id), None) => Ok(Parent::Own(id)),
        (None, None, Some(film)) => Ok(Parent::Sent(film)),
        (None, _, _) => Err(Refusal::missing("video")),
    }
}

/// Reads the body of `POST /v1/videos` and `POST /v1/videos/estimate`.
pub fn read_request(mut fields: Fields) -> Result<VideoRequest, Refusal> {
    refuse_unknown(&fields, "", &[CREATE_FIELDS, IGNORED_FIELDS])?;
    refuse_many(&mut fields)?;
    refuse_characters(&mut fields, "characters")?;
    let (steps, alias) = (
        integer(&mut fields, "steps", "")?,
        integer(&mut fields, "num_inference_steps", "")?,
    );
    if steps.is_some() && alias.is_some() && steps != alias {
        return Err(Refusal::wrong_value(
            "num_inference_steps",
            "it is another name of 'steps' and differs from it",
        ));
    }
    Ok(VideoRequest {
        prompt: text(&mut fields, "prompt", "")?.ok_or_else(|| Refusal::missing("prompt"))?,
        model: text(&mut fields, "model", "")?,
        seconds: seconds(&mut fields, "")?,
        size: text(&mut fields, "size", "")?,
        input_reference: reference(&mut fields, "input_reference", "")?,
        last_reference: reference(&mut fields, "last_reference", "")?,
        keyframes: keyframes(&mut fields)?,
        reference_strength: decimal(&mut fields, "reference_strength")?,
        audio_reference: source(&mut fields, "audio_reference", is_sound)?,
        video_reference: source(&mut fields, "video_reference", is_film)?,
        retake: retake(&mut fields)?,
        strength: decimal(&mut fields, "strength")?,
        context_seconds: decimal(&mut fields, "context_seconds")?,
        continues: None,
        lineage: Lineage::default(),
        reference_fit: reference_fit(&mut fields)?,
        seed: integer(&mut fields, "seed", "")?,
        negative_prompt: text(&mut fields, "negative_prompt", "")?.unwrap_or_default(),
        steps: steps.or(alias),
        guidance_scale: decimal(&mut fields, "guidance_scale")?,
        metadata: metadata(&mut fields)?,
        shots: shots(&mut fields)?,
        dry_run: boolean(&mut fields, "dry_run")?.unwrap_or(false),
        priority: priority(&mut fields)?,
        start: text(&mut fields, "start", "")?,
        user: text(&mut fields, "user", "")?.filter(|user| !user.is_empty()),
        not_before: instant(&mut fields, "not_before")?,
        deadline: instant(&mut fields, "deadline")?,
        devices: integer(&mut fields, "devices", "")?,
        quote: text(&mut fields, "quote", "")?,
    })
}

pub(super) fn refuse_unknown(
    fields: &Fields,
    path: &str,
    known: &[&[&str]],
) -> Result<(), Refusal> {
    let all = || known.iter().copied().flatten().copied();
    let Some(name) = fields
        .keys()
        .find(|name| !all().any(|known| known == name.as_str()))
    else {
        return Ok(());
    };
    let shown: String = name.chars().take(80).collect();
    let near = |known: &&str| distance(known, &shown) * 2 <= shown.chars().count();
    let nearest = all()
        .filter(near)
        .min_by_key(|known| distance(known, &shown));
    let advice = match nearest {
        _ if NOT_SERVED.contains(&shown.as_str()) => {
            " This server does not have it; leave it out.".into()
        }
        Some(nearest) => format!(" Did you mean '{path}{nearest}'?"),
        None => String::new(),
    };
    Err(Refusal::new(
        Code::UnknownParameter,
        format!("Unknown parameter: '{path}{shown}'.{advice}"),
    )
    .about(format!("{path}{shown}")))
}

/// Levenshtein distance in characters; both words are short.
fn distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, ca) in a.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, &cb) in b.iter().enumerate() {
            let substituted = diagonal + usize::from(ca != cb);
            diagonal = row[j + 1];
            row[j + 1] = substituted.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[b.len()]
}

fn refuse_many(fields: &mut Fields) -> Result<(), Refusal> {
    match integer(fields, "n", "")? {
        None | Some(1) => Ok(()),
        Some(_) => Err(Refusal::wrong_value(
            "n",
            "one request makes one video; send several requests, or a batch",
        )),
    }
}

/// No endpoint makes characters on this server yet, so every id is unknown.
fn refuse_characters(fields: &mut Fields, param: &str) -> Result<(), Refusal> {
    match fields.remove("characters").map(json_inside) {
        None | Some(Node::Null) => Ok(()),
        Some(Node::List(items)) if items.is_empty() => Ok(()),
        Some(Node::List(_) | Node::Object(_)) => Err(Refusal::wrong_value(
            param,
            "characters are not available on this server; leave the field out",
        )),
        Some(other) => Err(expected("an array", &other, param)),
    }
}

pub(super) fn expected(what: &str, got: &Node, param: &str) -> Refusal {
    Refusal::wrong_type(param, &format!("expected {what}, but got {}", got.kind()))
}

pub(super) fn text(fields: &mut Fields, name: &str, path: &str) -> Result<Option<String>, Refusal> {
    match fields.remove(name) {
        None | Some(Node::Null) => Ok(None),
        Some(Node::Text(text)) => Ok(Some(text)),
        Some(other) => Err(expected("a string", &other, &format!("{path}{name}"))),
    }
}

/// A string, or an integer as its decimal text.
fn seconds(fields: &mut Fields, path: &str) -> Result<Option<String>, Refusal> {
    match fields.remove("seconds") {
        None | Some(Node::Null) => Ok(None),
        Some(Node::Text(text)) => Ok(Some(text)),
        Some(Node::Number(number)) if !number.is_f64() => Ok(Some(number.to_string())),
        Some(other) => Err(expected("a string", &other, &format!("{path}seconds"))),
    }
}

fn integer(fields: &mut Fields, name: &str, path: &str) -> Result<Option<i64>, Refusal> {
    whole(fields, name, path, "an integer")
}

/// A whole number; `due` names what the field takes.
fn whole(fields: &mut Fields, name: &str, path: &str, due: &str) -> Result<Option<i64>, Refusal> {
    let node = match fields.remove(name) {
        None | Some(Node::Null) => return Ok(None),
        Some(node) => node,
    };
    let parsed = match &node {
        Node::Number(number) => number.as_i64(),
        Node::Text(text) => text.parse().ok(),
        _ => None,
    };
    parsed
        .map(Some)
        .ok_or_else(|| expected(due, &node, &format!("{path}{name}")))
}

pub(super) fn decimal(fields: &mut Fields, name: &str) -> Result<Option<f64>, Refusal> {
    let node = match fields.remove(name) {
        None | Some(Node::Null) => return Ok(None),
        Some(node) => node,
    };
    let parsed = match &node {
        Node::Number(number) => number.as_f64(),
        Node::Text(text) => text.parse().ok(),
        _ => None,
    };
    match parsed.filter(|number: &f64| number.is_finite()) {
        Some(number) => Ok(Some(number)),
        None => Err(expected("a number", &node, name)),
    }
}

fn boolean(fields: &mut Fields, name: &str) -> Result<Option<bool>, Refusal> {
    match fields.remove(name) {
        None | Some(Node::Null) => Ok(None),
        Some(Node::Bool(bool)) => Ok(Some(bool)),
        Some(Node::Text(text)) if text == "true" => Ok(Some(true)),
        Some(Node::Text(text)) if text == "false" => Ok(Some(false)),
        Some(other) => Err(expected("a boolean", &other, name)),
    }
}

/// Unix seconds, or a text such as `2027-01-31T08:00:00+01:00`.
fn instant(fields: &mut Fields, name: &str) -> Result<Option<i64>, Refusal> {
    if let Some(Node::Text(text)) = fields.get(name)
        && let Ok(at) = text.parse::<jiff::Timestamp>()
    {
        fields.remove(name);
        return Ok(Some(at.as_second()));
    }
    let due = "Unix seconds or an instant such as 2027-01-31T20:00:00+01:00";
    whole(fields, name, "", due)
}

fn priority(fields: &mut Fields) -> Result<Priority, Refusal> {
    match text(fields, "priority", "")?.as_deref() {
        None | Some("normal") => Ok(Priority::Normal),
        Some("low") => Ok(Priority::Low),
        Some("high") => Ok(Priority::High),
        Some("urgent") => Ok(Priority::Urgent),
        Some(_) => Err(Refusal::wrong_value(
            "priority",
            "supported values are 'low', 'normal', 'high' and 'urgent'",
        )),
    }
}

fn reference_fit(fields: &mut Fields) -> Result<ReferenceFit, Refusal> {
    match text(fields, "reference_fit", "")?.as_deref() {
        None | Some("exact") => Ok(ReferenceFit::Exact),
        Some("cover") => Ok(ReferenceFit::Cover),
        Some("contain") => Ok(ReferenceFit::Contain),
        Some(_) => Err(Refusal::wrong_value(
            "reference_fit",
            "supported values are 'exact', 'cover' and 'contain'",
        )),
    }
}

/// A text with JSON inside becomes that JSON, for fields that are objects or arrays.
pub(super) fn json_inside(node: Node) -> Node {
    let Node::Text(text) = &node else { return node };
    if !text.starts_with(['{', '[']) {
        return node;
    }
    serde_json::from_str::<serde_json::Value>(text).map_or(node, Node::from)
}

fn metadata(fields: &mut Fields) -> Result<std::collections::BTreeMap<String, String>, Refusal> {
    let pairs = match fields.remove("metadata").map(json_inside) {
        None | Some(Node::Null) => return Ok(Default::default()),
        Some(Node::Object(pairs)) => pairs,
        Some(other) => return Err(expected("an object", &other, "metadata")),
    };
    let pair = |(key, value)| match value {
        Node::Text(text) => Ok((key, text)),
        other => Err(expected("a string", &other, &format!("metadata.{key}"))),
    };
    pairs.into_iter().map(pair).collect()
}

fn shots(fields: &mut Fields) -> Result<Vec<ShotRequest>, Refusal> {
    let items = match fields.remove("shots").map(json_inside) {
        None | Some(Node::Null) => return Ok(Vec::new()),
        Some(Node::List(items)) => items,
        Some(Node::Object(indexed)) => from_indexes(indexed, "shots")?,
        Some(other) => return Err(expected("an array of objects", &other, "shots")),
    };
    if items.is_empty() {
        return Err(Refusal::wrong_value("shots", "it needs at least one shot"));
    }
    items
        .into_iter()
        .enumerate()
        .map(|(i, item)| shot(item, &format!("shots[{i}]")))
        .collect()
}

/// `{"0": a, "1": b}` of an indexed form to `[a, b]`.
pub(super) fn from_indexes(mut indexed: Fields, param: &str) -> Result<Vec<Node>, Refusal> {
    (0..indexed.len())
        .map(|i| {
            indexed.remove(&i.to_string()).ok_or_else(|| {
                Refusal::wrong_type(
                    param,
                    "expected an array with the indexes 0, 1, 2 and so on",
                )
            })
        })
        .collect()
}

fn shot(item: Node, path: &str) -> Result<ShotRequest, Refusal> {
    let mut fields = match json_inside(item) {
        Node::Object(fields) => fields,
        other => return Err(expected("an object", &other, path)),
    };
    let dotted = format!("{path}.");
    refuse_unknown(&fields, &dotted, &[SHOT_FIELDS])?;
    refuse_characters(&mut fields, &format!("{dotted}characters"))?;
    let continues = match text(&mut fields, "join", &dotted)?.as_deref() {
        None | Some("cut") => false,
        Some("continue") => true,
        Some(_) => {
            return Err(Refusal::wrong_value(
                &format!("{dotted}join"),
                "supported values are 'cut' and 'continue'",
            ));
        }
    };
    let missing = |name: &str| Refusal::missing(&format!("{dotted}{name}"));
    Ok(ShotRequest {
        prompt: text(&mut fields, "prompt", &dotted)?.ok_or_else(|| missing("prompt"))?,
        seconds: seconds(&mut fields, &dotted)?.ok_or_else(|| missing("seconds"))?,
        seed: integer(&mut fields, "seed", &dotted)?,
        negative_prompt: text(&mut fields, "negative_prompt", &dotted)?,
        input_reference: reference(&mut fields, "input_reference", &dotted)?,
        continues,
    })
}

#[cfg(test)]
#[path = "read_tests.rs"]
mod tests;
