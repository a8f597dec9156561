//! Files that a body gives of a film: images, sounds, films, and what is said about them.

use base64::Engine as _;
use bytes::Bytes;

use super::{
    form::IMAGE_URL_CHARS_MAX,
    node::{Fields, Node},
    read::{decimal, expected, from_indexes, json_inside, refuse_unknown, text},
};
use crate::{
    admission::{Code, Keyframe, Reference, Refusal, Retake, Source},
    artifacts::Upload,
};

/// What an image may be in JSON.
pub const REFERENCE_FIELDS: &[&str] = &["file_id", "image_url"];
const KEYFRAME_FIELDS: &[&str] = &["seconds", "input_reference"];
const RETAKE_FIELDS: &[&str] = &["from", "to", "what"];
/// Bytes of a reference image after decoding.
pub const IMAGE_BYTES_MAX: usize = 20 << 20;

/// Takes `{id}` out of a field that may also be a file; a file stays.
pub fn take_id(fields: &mut Fields, name: &str) -> Result<Option<String>, Refusal> {
    let mut object = match fields.remove(name).map(json_inside) {
        None | Some(Node::Null) => return Ok(None),
        Some(Node::Object(object)) => object,
        Some(file @ Node::File(_)) => {
            fields.insert(name.into(), file);
            return Ok(None);
        }
        Some(other) => return Err(expected("a file or an object", &other, name)),
    };
    let dotted = format!("{name}.");
    refuse_unknown(&object, &dotted, &[&["id"]])?;
    let id = text(&mut object, "id", &dotted)?;
    id.map(Some)
        .ok_or_else(|| Refusal::missing(&format!("{dotted}id")))
}

/// A file, or an object with exactly one of `file_id` and `image_url`.
pub fn reference(
    fields: &mut Fields,
    name: &str,
    path: &str,
) -> Result<Option<Reference>, Refusal> {
    let param = format!("{path}{name}");
    let mut object = match fields.remove(name).map(json_inside) {
        None | Some(Node::Null) => return Ok(None),
        Some(Node::File(file)) => return image_file(&file, &param).map(Some),
        Some(Node::Object(object)) => object,
        Some(Node::Text(_)) => {
            return Err(Refusal::wrong_type(
                &param,
                "expected a file, but got a string",
            ));
        }
        Some(other) => return Err(expected("a file or an object", &other, &param)),
    };
    if object.get("type") == Some(&Node::Text("Buffer".into())) {
        return Err(Refusal::wrong_type(
            &param,
            "expected a file, but got the bytes as numbers: wrap the buffer with toFile",
        ));
    }
    let dotted = format!("{param}.");
    refuse_unknown(&object, &dotted, &[REFERENCE_FIELDS])?;
    let file_id = text(&mut object, "file_id", &dotted)?;
    let image_url = text(&mut object, "image_url", &dotted)?;
    match (file_id, image_url) {
        (None, Some(url)) => data_url(&url, &param).map(Some),
        (Some(_), None) => Err(Refusal::wrong_value(
            &format!("{dotted}file_id"),
            "files are not kept on this server; upload the image itself or send a data URL",
        )),
        (None, None) => Err(Refusal::missing(&format!("{dotted}image_url"))),
        (Some(_), Some(_)) => Err(Refusal::wrong_value(
            &param,
            "send exactly one of 'file_id' and 'image_url'",
        )),
    }
}

fn image_file(file: &Upload, param: &str) -> Result<Reference, Refusal> {
    if file.size() > IMAGE_BYTES_MAX as u64 {
        return Err(image_too_large(param));
    }
    let bytes = file.bytes().map_err(|error| {
        tracing::error!(%error, "a file of a request cannot be read back");
        Refusal::new(Code::ServerError, "The image cannot be read back.").about(param)
    })?;
    Ok(Reference(bytes))
}

fn image_too_large(param: &str) -> Refusal {
    let why = format!("The image in '{param}' has more than {IMAGE_BYTES_MAX} bytes.");
    Refusal::new(Code::InvalidImage, why).about(param)
}

fn checked_size(bytes: Bytes, param: &str) -> Result<Reference, Refusal> {
    match bytes.len() > IMAGE_BYTES_MAX {
        true => Err(image_too_large(param)),
        false => Ok(Reference(bytes)),
    }
}

/// `data:image/…;base64,…`. The declared type only has to be an image; the bytes decide.
pub fn data_url(url: &str, param: &str) -> Result<Reference, Refusal> {
    if url.len() > IMAGE_URL_CHARS_MAX && url.chars().count() > IMAGE_URL_CHARS_MAX {
        return Err(Refusal::new(
            Code::RequestTooLarge,
            format!("'{param}.image_url' may have at most {IMAGE_URL_CHARS_MAX} characters."),
        )
        .about(param));
    }
    let bad = |why: &str| Refusal::new(Code::InvalidImageUrl, why).about(param);
    let scheme = url
        .split(':')
        .next()
        .unwrap_or_default()
        .to_ascii_lowercase();
    if scheme == "http" || scheme == "https" {
        return Err(bad(
            "This server does not fetch images; send the image as a file or as a data URL.",
        ));
    }
    let malformed = || bad("'image_url' must be a data URL of the form 'data:image/png;base64,…'.");
    let (head, data) = url.split_once(',').ok_or_else(malformed)?;
    let head = head.to_ascii_lowercase();
    let media = head.strip_prefix("data:").ok_or_else(malformed)?;
    if !media.starts_with("image/") || !media.ends_with(";base64") {
        return Err(malformed());
    }
    let engine = base64::engine::GeneralPurpose::new(
        &base64::alphabet::STANDARD,
        base64::engine::GeneralPurposeConfig::new()
            .with_decode_padding_mode(base64::engine::DecodePaddingMode::Indifferent),
    );
    let bytes = engine
        .decode(data)
        .map_err(|_| bad("The base64 text of the data URL is broken."))?;
    checked_size(bytes.into(), param)
}

/// `[{seconds, input_reference}]`
pub fn keyframes(fields: &mut Fields) -> Result<Vec<Keyframe>, Refusal> {
    let items = match fields.remove("keyframes").map(json_inside) {
        None | Some(Node::Null) => return Ok(Vec::new()),
        Some(Node::List(items)) => items,
        Some(Node::Object(indexed)) => from_indexes(indexed, "keyframes")?,
        Some(other) => return Err(expected("an array of objects", &other, "keyframes")),
    };
    let keyframe = |(place, item): (usize, Node)| {
        let path = format!("keyframes[{place}]");
        let mut fields = match json_inside(item) {
            Node::Object(fields) => fields,
            other => return Err(expected("an object", &other, &path)),
        };
        let dotted = format!("{path}.");
        refuse_unknown(&fields, &dotted, &[KEYFRAME_FIELDS])?;
        let missing = |name: &str| Refusal::missing(&format!("{dotted}{name}"));
        let seconds = decimal(&mut fields, "seconds")?.ok_or_else(|| missing("seconds"))?;
        let image = reference(&mut fields, "input_reference", &dotted)?;
        Ok(Keyframe {
            seconds,
            input_reference: image.ok_or_else(|| missing("input_reference"))?,
        })
    };
    items.into_iter().enumerate().map(keyframe).collect()
}

/// `{from, to, what}`: seconds, and one of `video`, `audio` and `both`.
pub fn retake(fields: &mut Fields) -> Result<Option<Retake>, Refusal> {
    let mut object = match fields.remove("retake").map(json_inside) {
        None | Some(Node::Null) => return Ok(None),
        Some(Node::Object(object)) => object,
        Some(other) => return Err(expected("an object", &other, "retake")),
    };
    refuse_unknown(&object, "retake.", &[RETAKE_FIELDS])?;
    let mut second = |name: &str| {
        decimal(&mut object, name)?.ok_or_else(|| Refusal::missing(&format!("retake.{name}")))
    };
    let (from_s, to_s) = (second("from")?, second("to")?);
    let (picture, sound) = match text(&mut object, "what", "retake.")?.as_deref() {
        None | Some("both") => (true, true),
        Some("video") => (true, false),
        Some("audio") => (false, true),
        Some(_) => {
            return Err(Refusal::wrong_value(
                "retake.what",
                "supported values are 'video', 'audio' and 'both'",
            ));
        }
    };
    Ok(Some(Retake {
        from_s,
        to_s,
        picture,
        sound,
    }))
}

/// A file with sound or picture, by its first bytes.
pub fn source(
    fields: &mut Fields,
    name: &str,
    is_known: fn(&[u8]) -> bool,
) -> Result<Option<Source>, Refusal> {
    match fields.remove(name) {
        None | Some(Node::Null) => Ok(None),
        Some(Node::File(file)) if is_known(file.head()) => Ok(Some(Source::sent(file))),
        Some(Node::File(_)) => {
            let why = format!("The file in '{name}' is of no kind that this server reads.");
            Err(Refusal::new(Code::InvalidVideo, why).about(name))
        }
        Some(other) => Err(expected("a file", &other, name)),
    }
}

/// MP4 or MOV, WebM or Matroska.
pub fn is_film(bytes: &[u8]) -> bool {
    bytes.get(4..8) == Some(b"ftyp") || is_matroska(bytes)
}

/// Matroska, WebM included.
pub fn is_matroska(bytes: &[u8]) -> bool {
    bytes.starts_with(b"\x1a\x45\xdf\xa3")
}

/// A film, WAV, FLAC, Ogg or MP3.
pub fn is_sound(bytes: &[u8]) -> bool {
    let starts = |with: &[&[u8]]| with.iter().any(|start| bytes.starts_with(start));
    let is_mpeg = matches!(bytes, [0xff, second, ..] if second & 0xe0 == 0xe0);
    is_film(bytes) || is_mpeg || starts(&[b"RIFF", b"fLaC", b"OggS", b"ID3"])
}
