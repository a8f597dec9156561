//! Tables of bodies and what they parse to.

use bytes::Bytes;
use expect_test::{Expect, expect};
use proptest::prelude::*;

use super::*;
use crate::{
    admission::Reference,
    api::{
        form::IMAGE_URL_CHARS_MAX,
        read_given::{REFERENCE_FIELDS, data_url},
    },
};

fn read_json(body: &str) -> Result<VideoRequest, Refusal> {
    let value: serde_json::Value = serde_json::from_str(body).expect("test bodies are JSON");
    match Node::from(value) {
        Node::Object(fields) => read_request(fields),
        other => panic!("test bodies are objects, found {}", other.kind()),
    }
}

fn refused(body: &str, expected: Expect) {
    let refusal = read_json(body).expect_err(body);
    expected.assert_eq(&format!(
        "{refusal} [{}]",
        refusal.param.clone().unwrap_or_default()
    ));
}

fn passes(body: &str) -> VideoRequest {
    read_json(body).unwrap_or_else(|refusal| panic!("{body}: {refusal}"))
}

#[test]
fn a_form_with_texts_reads_like_json_with_types() {
    let typed = passes(
        r#"{"prompt":"a\r\nb","seconds":8,"seed":7,"guidance_scale":2.5,"dry_run":true,
            "metadata":{"k":"v"},"shots":[{"prompt":"p","seconds":4}]}"#,
    );
    let texts = passes(
        r#"{"prompt":"a\nb","seconds":"8","seed":"7","guidance_scale":"2.5","dry_run":"true",
            "metadata":"{\"k\":\"v\"}","shots":{"0":{"prompt":"p","seconds":"4"}}}"#,
    );
    let part = passes(
        r#"{"prompt":"a\nb","seconds":"8","seed":"7","guidance_scale":"2.5","dry_run":"true",
            "metadata":{"k":"v"},"shots":"[{\"prompt\":\"p\",\"seconds\":4}]"}"#,
    );
    assert_eq!(typed, texts);
    assert_eq!(typed, part);
    assert_eq!(typed.prompt, "a\nb");
    assert_eq!(
        typed.fingerprint("k", "POST", "/v1/videos"),
        part.fingerprint("k", "POST", "/v1/videos")
    );
}

#[test]
fn nulls_and_ignored_fields_change_nothing() {
    let plain = passes(r#"{"prompt":"p"}"#);
    let busy = r#"{"prompt":"p","model":null,"seconds":null,"size":null,"input_reference":null,
        "characters":[],"user":"","safety_identifier":"s","n":1,"metadata":null,"shots":null}"#;
    assert_eq!(plain, passes(busy));
    assert_eq!(
        passes(r#"{"prompt":"p","user":"ann"}"#).user.as_deref(),
        Some("ann")
    );
    assert_eq!(passes(r#"{"prompt":"{not json"}"#).prompt, "{not json");
    assert_eq!(
        passes(r#"{"prompt":"p","num_inference_steps":4}"#).steps,
        Some(4)
    );
}

#[test]
fn a_data_url_gives_its_bytes() {
    let request = passes(
        r#"{"prompt":"p","input_reference":{"image_url":"data:image/png;base64,aGVsbG8="}}"#,
    );
    assert_eq!(
        request.input_reference,
        Some(Reference(Bytes::from_static(b"hello")))
    );
    let part =
        r#"{"prompt":"p","input_reference":"{\"image_url\":\"DATA:image/png;base64,aGVsbG8\"}"}"#;
    assert_eq!(request.input_reference, passes(part).input_reference);
}

#[test]
fn wrong_fields_are_named_with_the_nearest_known_one() {
    refused(
        r#"{"prompt":"p","second":"4"}"#,
        expect!["unknown_parameter: Unknown parameter: 'second'. Did you mean 'seconds'? [second]"],
    );
    refused(
        r#"{"prompt":"p","shots":[{"prompt":"p","secs":4}]}"#,
        expect![
            "unknown_parameter: Unknown parameter: 'shots[0].secs'. Did you mean 'shots[0].seed'? [shots[0].secs]"
        ],
    );
    refused(
        r#"{"prompt":"p","colour":"red"}"#,
        expect!["unknown_parameter: Unknown parameter: 'colour'. [colour]"],
    );
    refused(
        r#"{"prompt":"p","webhook_url":"https://a.b/c"}"#,
        expect![
            "unknown_parameter: Unknown parameter: 'webhook_url'. This server does not have it; leave it out. [webhook_url]"
        ],
    );
    refused(
        r#"{"prompt":"p","deadline":"tomorrow"}"#,
        expect![
            "invalid_type: Invalid type for 'deadline': expected Unix seconds or an instant such as 2027-01-31T20:00:00+01:00, but got a string. [deadline]"
        ],
    );
    refused(
        "{}",
        expect!["missing_required_parameter: Missing required parameter: 'prompt'. [prompt]"],
    );
    refused(
        r#"{"prompt":"p","shots":[{"prompt":"p"}]}"#,
        expect![
            "missing_required_parameter: Missing required parameter: 'shots[0].seconds'. [shots[0].seconds]"
        ],
    );
}

#[test]
fn wrong_types_are_refused() {
    refused(
        r#"{"prompt":5}"#,
        expect![
            "invalid_type: Invalid type for 'prompt': expected a string, but got an integer. [prompt]"
        ],
    );
    refused(
        r#"{"prompt":"p","seconds":8.0}"#,
        expect![
            "invalid_type: Invalid type for 'seconds': expected a string, but got a decimal number. [seconds]"
        ],
    );
    refused(
        r#"{"prompt":"p","seed":"x"}"#,
        expect![
            "invalid_type: Invalid type for 'seed': expected an integer, but got a string. [seed]"
        ],
    );
    refused(
        r#"{"prompt":"p","guidance_scale":"inf"}"#,
        expect![
            "invalid_type: Invalid type for 'guidance_scale': expected a number, but got a string. [guidance_scale]"
        ],
    );
    refused(
        r#"{"prompt":"p","metadata":{"k":1}}"#,
        expect![
            "invalid_type: Invalid type for 'metadata.k': expected a string, but got an integer. [metadata.k]"
        ],
    );
    refused(
        r#"{"prompt":"p","shots":{"0":{"prompt":"p","seconds":4},"2":{"prompt":"p","seconds":4}}}"#,
        expect![
            "invalid_type: Invalid type for 'shots': expected an array with the indexes 0, 1, 2 and so on. [shots]"
        ],
    );
    refused(
        r#"{"prompt":"p","dry_run":"yes"}"#,
        expect![
            "invalid_type: Invalid type for 'dry_run': expected a boolean, but got a string. [dry_run]"
        ],
    );
}

#[test]
fn references_that_cannot_be_used_are_refused() {
    refused(
        r#"{"prompt":"p","input_reference":"a.png"}"#,
        expect![
            "invalid_type: Invalid type for 'input_reference': expected a file, but got a string. [input_reference]"
        ],
    );
    refused(
        r#"{"prompt":"p","input_reference":{"type":"Buffer","data":[1]}}"#,
        expect![
            "invalid_type: Invalid type for 'input_reference': expected a file, but got the bytes as numbers: wrap the buffer with toFile. [input_reference]"
        ],
    );
    refused(
        r#"{"prompt":"p","input_reference":{"file_id":"file-1","image_url":"data:image/png;base64,"}}"#,
        expect![
            "invalid_value: Invalid value for 'input_reference': send exactly one of 'file_id' and 'image_url'. [input_reference]"
        ],
    );
    refused(
        r#"{"prompt":"p","input_reference":{"file_id":"file-1"}}"#,
        expect![
            "invalid_value: Invalid value for 'input_reference.file_id': files are not kept on this server; upload the image itself or send a data URL. [input_reference.file_id]"
        ],
    );
    refused(
        r#"{"prompt":"p","input_reference":{"image_url":"http://127.0.0.1/a.png"}}"#,
        expect![
            "invalid_image_url: This server does not fetch images; send the image as a file or as a data URL. [input_reference]"
        ],
    );
    for url in [
        "file:///a.png",
        "data:text/plain;base64,aGk=",
        "data:image/png,aGk=",
        "nonsense",
        "",
    ] {
        let body = serde_json::json!({"prompt": "p", "input_reference": {"image_url": url}});
        let refusal = read_json(&body.to_string()).expect_err(url);
        assert_eq!(refusal.code, Code::InvalidImageUrl, "{url}");
    }
}

#[test]
fn what_this_server_cannot_do_is_said() {
    refused(
        r#"{"prompt":"p","n":2}"#,
        expect![
            "invalid_value: Invalid value for 'n': one request makes one video; send several requests, or a batch. [n]"
        ],
    );
    refused(
        r#"{"prompt":"p","characters":[{"id":"char_1"}]}"#,
        expect![
            "invalid_value: Invalid value for 'characters': characters are not available on this server; leave the field out. [characters]"
        ],
    );
    refused(
        r#"{"prompt":"p","priority":"now"}"#,
        expect![
            "invalid_value: Invalid value for 'priority': supported values are 'low', 'normal', 'high' and 'urgent'. [priority]"
        ],
    );
    refused(
        r#"{"prompt":"p","reference_fit":"outpaint"}"#,
        expect![
            "invalid_value: Invalid value for 'reference_fit': supported values are 'exact', 'cover' and 'contain'. [reference_fit]"
        ],
    );
    refused(
        r#"{"prompt":"p","steps":4,"num_inference_steps":5}"#,
        expect![
            "invalid_value: Invalid value for 'num_inference_steps': it is another name of 'steps' and differs from it. [num_inference_steps]"
        ],
    );
}

#[test]
fn an_image_url_one_character_too_long_is_refused() {
    let head = "data:image/png;base64,";
    let longest = format!("{head}{}", "A".repeat(IMAGE_URL_CHARS_MAX - head.len()));
    let longer = format!("{longest}A");
    assert_eq!(
        data_url(&longer, "input_reference").unwrap_err().code,
        Code::RequestTooLarge
    );
    let code = data_url(&longest, "input_reference").map_err(|refusal| refusal.code);
    assert_ne!(code.err(), Some(Code::RequestTooLarge));
}

fn any_node() -> impl Strategy<Value = Node> {
    let leaf = prop_oneof![
        Just(Node::Null),
        any::<bool>().prop_map(Node::Bool),
        any::<i64>().prop_map(|n| Node::Number(n.into())),
        any::<u64>().prop_map(|n| Node::Number(n.into())),
        "[\\PC\\[\\]{}\",:0-9]{0,20}".prop_map(Node::Text),
        any::<Vec<u8>>().prop_map(|bytes| Node::File(Upload::of(bytes.into()))),
    ];
    leaf.prop_recursive(3, 24, 4, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Node::List),
            prop::collection::btree_map(any_field(), inner, 0..4).prop_map(Node::Object),
        ]
    })
}

fn any_field() -> impl Strategy<Value = String> {
    let known: Vec<&str> = [
        CREATE_FIELDS,
        SHOT_FIELDS,
        REFERENCE_FIELDS,
        IGNORED_FIELDS,
        &["0", "1", "x"],
    ]
    .concat();
    prop::sample::select(known).prop_map(str::to_owned)
}

proptest! {
    #[test]
    fn any_tree_is_read_or_refused_with_a_client_error(
        fields in prop::collection::btree_map(any_field(), any_node(), 0..8)
    ) {
        if let Err(refusal) = read_request(fields) {
            prop_assert!((400..500).contains(&refusal.code.status()));
        }
    }
}
