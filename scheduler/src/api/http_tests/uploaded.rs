//! Films that come with a request: edits and extensions of them.

use schemas::given::GivenSpec;

use super::*;

fn boxed(kind: &[u8; 4], body: &[u8]) -> Vec<u8> {
    let size = u32::try_from(body.len() + 8).unwrap();
    [&size.to_be_bytes(), &kind[..], body].concat()
}

fn words(words: &[u32]) -> Vec<u8> {
    words.iter().flat_map(|word| word.to_be_bytes()).collect()
}

/// A silent MP4 of so many milliseconds at 640x360, with so much behind its headers.
fn mp4(ms: u32, samples: u32, data_bytes: usize) -> Bytes {
    let mut tkhd = vec![0; 84];
    tkhd[76..84].copy_from_slice(&words(&[640 << 16, 360 << 16]));
    let stsd = [words(&[0, 1, 16]), b"avc1".to_vec()].concat();
    let stts = words(&[0, 1, samples, 1]);
    let stbl = [boxed(b"stsd", &stsd), boxed(b"stts", &stts)].concat();
    let hdlr = [words(&[0, 0]), b"vide".to_vec()].concat();
    let mdia = [
        boxed(b"mdhd", &words(&[0, 0, 0, 1_000, ms])),
        boxed(b"hdlr", &hdlr),
        boxed(b"minf", &boxed(b"stbl", &stbl)),
    ];
    let trak = [boxed(b"tkhd", &tkhd), boxed(b"mdia", &mdia.concat())].concat();
    let mvhd = boxed(b"mvhd", &words(&[0, 0, 0, 1_000, ms]));
    let moov = boxed(b"moov", &[mvhd, boxed(b"trak", &trak)].concat());
    let mdat = boxed(b"mdat", &vec![0; data_bytes]);
    [boxed(b"ftyp", b"isom"), moov, mdat].concat().into()
}

impl Farm {
    async fn send_film(&self, path: &str, film: &Bytes, more: &[(&str, &str)]) -> Answer {
        let files = BTreeMap::from([("video", film.clone())]);
        let texts = [&[("prompt", "it goes on")], more].concat();
        self.send(form_request(path, form(&texts, &files))).await
    }

    /// What the next shot is given.
    async fn given(&self) -> GivenSpec {
        let agent = self.agent(&[]).await;
        let TaskSpec::Render(spec) = self.lease(agent).await.unwrap().spec else {
            panic!("a shot")
        };
        spec.given().clone()
    }
}

#[tokio::test]
async fn an_edit_takes_size_and_seconds_of_a_film_larger_than_other_forms_may_be() {
    let farm = Farm::start().await;
    let film = mp4(5_700, 100, 33 << 20);
    let edit = farm.send_film("/v1/videos/edits", &film, &[]).await.json();
    for (name, value) in [("size", "1280x720"), ("seconds", "5"), ("model", "sora-2")] {
        assert_eq!(edit[name], value, "{edit}");
    }
    assert_eq!(edit["operation"], "edit");
    assert_eq!(edit["remixed_from_video_id"], serde_json::Value::Null);
    let given = farm.given().await;
    let kept = given.film.unwrap().part.file;
    assert_eq!(kept, Digest::of(&film));
    assert_eq!(
        farm.artifacts.size(kept).await.unwrap(),
        Some(film.len() as u64)
    );
    assert_eq!(
        (given.sound.unwrap().file, given.renoise),
        (kept, Some(0.95))
    );
    let elsewhere = farm.send_film("/v1/videos", &film, &[]).await;
    assert_eq!(elsewhere.error(), (413, "request_too_large".into()));
}

#[tokio::test]
async fn an_extension_goes_on_from_the_end_of_an_uploaded_film() {
    let farm = Farm::start().await;
    let film = mp4(5_700, 100, 9);
    let more = [("seconds", "8"), ("model", "sora-2-pro")];
    let longer = farm
        .send_film("/v1/videos/extensions", &film, &more)
        .await
        .json();
    for (name, value) in [
        ("size", "1280x720"),
        ("seconds", "13"),
        ("model", "sora-2-pro"),
    ] {
        assert_eq!(longer[name], value, "{longer}");
    }
    let context = farm.given().await.context.unwrap();
    assert_eq!(context.film, Some(Digest::of(&film)));
    // 5.7 seconds at 16 frames a second.
    assert_eq!(context.end_frame, 91);
}

#[tokio::test]
async fn films_that_cannot_be_used_are_refused_with_the_reason() {
    let farm = Farm::start().await;
    let refused = async |film: Bytes| {
        let answer = farm.send_film("/v1/videos/edits", &film, &[]).await;
        let message = answer.json()["error"]["message"].to_string();
        assert_eq!(answer.error(), (400, "invalid_video".into()), "{message}");
        message
    };
    let long = mp4(121_000, 9, 9);
    for (film, why) in [
        (
            long.slice(..long.len() - 1),
            "a box is longer than the file",
        ),
        (long, "it lasts 121.00 seconds; 1 to 120 are possible"),
        (mp4(900, 9, 9), "it lasts 0.90 seconds"),
        (mp4(5_000, 0, 9), "it is in fragments"),
        (
            Bytes::from_static(b"\x1a\x45\xdf\xa3nothing"),
            "cannot be used",
        ),
        (
            Bytes::from_static(b"\x89PNG"),
            "no kind that this server reads",
        ),
    ] {
        let message = refused(film).await;
        assert!(message.contains(why), "{message}");
    }
    let unknown = [("model", "sora-9")];
    let unknown = farm
        .send_film("/v1/videos/edits", &mp4(5_000, 9, 9), &unknown)
        .await;
    assert_eq!(unknown.error(), (404, "model_not_found".into()));
}
