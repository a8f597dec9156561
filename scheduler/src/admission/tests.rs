//! For each rule a yes and a no.

use std::{collections::BTreeMap, io::Cursor};

use bytes::Bytes;
use expect_test::{Expect, expect};
use schemas::agent::WeightsInfo;
use uuid::Uuid;

use super::*;

fn catalogue() -> Catalogue {
    Catalogue::new(&CatalogueSettings::default(), &[])
}

fn request() -> VideoRequest {
    VideoRequest {
        prompt: "a red ball falls".into(),
        ..VideoRequest::default()
    }
}

fn order(request: &VideoRequest) -> Result<Order, Refusal> {
    decide(request, &catalogue(), &Blocklist::default(), 7)
}

fn accepted(request: VideoRequest) -> Order {
    order(&request).unwrap_or_else(|refusal| panic!("{request:?}: {refusal}"))
}

fn refused(request: VideoRequest, expected: Expect) {
    let refusal = order(&request).expect_err("this request breaks a rule");
    expected.assert_eq(&format!(
        "{refusal} [{}]",
        refusal.param.clone().unwrap_or_default()
    ));
}

fn shot(prompt: &str, seconds: &str) -> ShotRequest {
    ShotRequest {
        prompt: prompt.into(),
        seconds: seconds.into(),
        ..ShotRequest::default()
    }
}

fn renders(order: &Order) -> Vec<&RenderSpec> {
    let renders = order.tasks.iter().filter_map(|task| match task {
        TaskSpec::Render(spec) => Some(spec),
        TaskSpec::Assemble(_) => None,
    });
    renders.collect()
}

fn assemble(order: &Order) -> &AssembleSpec {
    match order.tasks.last() {
        Some(TaskSpec::Assemble(spec)) => spec,
        other => panic!("the last task assembles, found {other:?}"),
    }
}

#[test]
fn a_prompt_alone_becomes_the_default_film() {
    let order = accepted(request());
    let [render] = renders(&order)[..] else {
        panic!("one shot")
    };
    assert_eq!(
        (render.width, render.height, render.frames, render.fps),
        (64, 112, 65, 16)
    );
    assert_eq!(
        (render.weights.as_str(), render.seed, render.steps),
        ("builtin", 7, None)
    );
    assert_eq!(
        (assemble(&order).width, assemble(&order).height),
        (720, 1280)
    );
    assert_eq!(assemble(&order).shot_frames, [64]);
    assert_eq!(order.record.model, "sora-2");
    assert_eq!(
        (order.record.seconds, order.record.size.as_str()),
        (4, "720x1280")
    );
    assert_eq!(order.record.native_size, "64x112");
    assert_eq!(order.record.warnings, []);
    assert!(order.hold >= order.price());
}

#[test]
fn every_official_size_and_length_is_accepted() {
    for size in [
        "720x1280",
        "1280x720",
        "1024x1792",
        "1792x1024",
        "1080x1920",
        "1920x1080",
        "64x64",
    ] {
        for seconds in ["4", "8", "12", "16", "20"] {
            let sent = VideoRequest {
                size: Some(size.into()),
                seconds: Some(seconds.into()),
                ..request()
            };
            let order = accepted(sent);
            let frames: u32 = assemble(&order).shot_frames.iter().sum();
            assert_eq!(frames.to_string(), (order.record.seconds * 16).to_string());
        }
    }
}

#[test]
fn a_long_film_is_split_and_says_so() {
    let order = accepted(VideoRequest {
        seconds: Some("8".into()),
        ..request()
    });
    assert_eq!(renders(&order).len(), 2);
    assert_eq!(assemble(&order).shot_frames, [64, 64]);
    assert_ne!(renders(&order)[0].seed, renders(&order)[1].seed);
    assert_eq!(order.record.warnings[0].code, "split_into_shots");
}

#[test]
fn the_weights_own_name_takes_any_whole_second() {
    let builtin = |seconds: &str| VideoRequest {
        model: Some("builtin".into()),
        seconds: Some(seconds.into()),
        ..request()
    };
    assert_eq!(accepted(builtin("5")).record.seconds, 5);
    assert_eq!(accepted(builtin("1")).record.model, "builtin");
    assert!(order(&builtin("21")).is_err());
    assert!(order(&builtin("0")).is_err());
}

#[test]
fn seconds_and_size_outside_the_list_are_refused_with_the_list() {
    for seconds in ["8.0", "5", "", "08", "+8", "eight"] {
        let sent = VideoRequest {
            seconds: Some(seconds.into()),
            ..request()
        };
        let refusal = order(&sent).expect_err(seconds);
        assert_eq!(refusal.param.as_deref(), Some("seconds"));
        assert!(
            refusal.message.contains("'4', '8', '12', '16' and '20'"),
            "{}",
            refusal.message
        );
    }
    refused(
        VideoRequest {
            size: Some("640x480".into()),
            ..request()
        },
        expect![
            "invalid_value: Invalid value for 'size': supported values are '720x1280', '1280x720', '1024x1792', '1792x1024', '1080x1920', '1920x1080', '64x64', '112x64' and '64x112'. [size]"
        ],
    );
    refused(
        VideoRequest {
            model: Some("sora-9".into()),
            ..request()
        },
        expect![
            "model_not_found: The model 'sora-9' does not exist. Models of this server are 'builtin', 'sora-2' and 'sora-2-pro'. [model]"
        ],
    );
}

#[test]
fn prompts_have_one_to_32000_code_points() {
    accepted(VideoRequest {
        prompt: "ä".repeat(32_000),
        ..request()
    });
    refused(
        VideoRequest {
            prompt: "ä".repeat(32_001),
            ..request()
        },
        expect![
            "invalid_value: Invalid value for 'prompt': it has 32001 characters, at most 32000 are allowed. [prompt]"
        ],
    );
    refused(
        VideoRequest {
            prompt: String::new(),
            ..request()
        },
        expect!["invalid_value: Invalid value for 'prompt': it must not be empty. [prompt]"],
    );
    refused(
        VideoRequest {
            negative_prompt: "x".repeat(4001),
            ..request()
        },
        expect![
            "invalid_value: Invalid value for 'negative_prompt': at most 4000 characters are allowed. [negative_prompt]"
        ],
    );
}

#[test]
fn numbers_have_ranges() {
    let order = accepted(VideoRequest {
        seed: Some(9_007_199_254_740_991),
        steps: Some(100),
        guidance_scale: Some(30.0),
        ..request()
    });
    let render = renders(&order)[0];
    assert_eq!((render.seed, render.steps), (SEED_MAX, Some(100)));
    assert_eq!(render.guidance_scale, Some(30.0));
    for bad in [
        VideoRequest {
            seed: Some(-1),
            ..request()
        },
        VideoRequest {
            seed: Some(9_007_199_254_740_992),
            ..request()
        },
        VideoRequest {
            steps: Some(0),
            ..request()
        },
        VideoRequest {
            steps: Some(101),
            ..request()
        },
        VideoRequest {
            guidance_scale: Some(-0.1),
            ..request()
        },
        VideoRequest {
            guidance_scale: Some(30.1),
            ..request()
        },
    ] {
        assert_eq!(
            super::tests::order(&bad).unwrap_err().code,
            Code::InvalidValue,
            "{bad:?}"
        );
    }
}

#[test]
fn metadata_is_kept_within_its_limits() {
    let pairs = |n: usize| (0..n).map(|i| (format!("k{i}"), "v".into())).collect();
    assert_eq!(
        accepted(VideoRequest {
            metadata: pairs(16),
            ..request()
        })
        .record
        .metadata
        .len(),
        16
    );
    let one = |key: String, value: String| BTreeMap::from([(key, value)]);
    accepted(VideoRequest {
        metadata: one("k".repeat(64), "v".repeat(512)),
        ..request()
    });
    for bad in [
        pairs(17),
        one(String::new(), "v".into()),
        one("k".repeat(65), "v".into()),
        one("k".into(), "v".repeat(513)),
    ] {
        let refusal = order(&VideoRequest {
            metadata: bad,
            ..request()
        })
        .unwrap_err();
        assert_eq!(refusal.param.as_deref(), Some("metadata"));
    }
}

#[test]
fn a_storyboard_joins_its_shots_under_one_style() {
    let order = accepted(VideoRequest {
        prompt: "neon style".into(),
        seconds: Some("7".into()),
        seed: Some(3),
        shots: vec![
            ShotRequest {
                seed: Some(11),
                ..shot("a ball", "4")
            },
            shot("a star", "3"),
        ],
        ..request()
    });
    let prompts: Vec<_> = renders(&order)
        .iter()
        .map(|spec| spec.prompt.clone())
        .collect();
    assert_eq!(prompts, ["neon style a ball", "neon style a star"]);
    assert_eq!(renders(&order)[0].seed, 11);
    assert_eq!(renders(&order)[1].seed, storyboard::part_seed(3, 1));
    assert_eq!(assemble(&order).shot_frames, [64, 48]);
    assert_eq!(order.record.warnings, []);
}

#[test]
fn a_storyboard_that_does_not_add_up_is_refused() {
    let with = |shots: Vec<ShotRequest>| VideoRequest { shots, ..request() };
    refused(
        VideoRequest {
            seconds: Some("8".into()),
            ..with(vec![shot("a", "4")])
        },
        expect![
            "invalid_value: Invalid value for 'seconds': the shots add up to 4; send that or leave 'seconds' out. [seconds]"
        ],
    );
    refused(
        with(vec![shot("a", "21")]),
        expect![
            "invalid_value: Invalid value for 'shots[0].seconds': a shot has 1 to 20 whole seconds. [shots[0].seconds]"
        ],
    );
    refused(
        with(vec![shot("a", "20"); 7]),
        expect![
            "invalid_value: Invalid value for 'shots': they add up to 140 seconds, at most 120 are allowed. [shots]"
        ],
    );
    refused(
        with(vec![shot("a", "1"); 21]),
        expect!["invalid_value: Invalid value for 'shots': at most 20 are allowed. [shots]"],
    );
    refused(
        with(vec![shot(&"x".repeat(8001), "4")]),
        expect![
            "invalid_value: Invalid value for 'shots[0].prompt': it has 8001 characters, at most 8000 are allowed. [shots[0].prompt]"
        ],
    );
    refused(
        with(vec![ShotRequest {
            seed: Some(-1),
            ..shot("a", "4")
        }]),
        expect![
            "invalid_value: Invalid value for 'shots[0].seed': a seed is an integer from 0 to 9007199254740991. [shots[0].seed]"
        ],
    );
}

#[test]
fn unknown_words_are_named_only_when_the_words_are_known() {
    let words = ["a", "red", "ball", "falls", "light-blue"];
    let farm = [WeightsInfo {
        name: "builtin".into(),
        digest: Digest::of(b"w"),
        title: "built-in procedural-world model".into(),
        sizes: vec![(64, 64)],
        fps: 16,
        frames_default: 65,
        frames_max: 65,
        frames_step: 4,
        steps: 12,
        vocabulary: words.map(str::to_owned).to_vec(),
    }];
    let catalogue = Catalogue::new(&CatalogueSettings::default(), &farm);
    let warnings = |prompt: &str| {
        let request = VideoRequest {
            prompt: prompt.into(),
            ..request()
        };
        decide(&request, &catalogue, &Blocklist::default(), 7)
            .unwrap()
            .record
            .warnings
    };
    assert_eq!(warnings("A red ball, light-blue: falls!"), []);
    let [warning] = &warnings("a Unicorn falls; unicorn, dragon")[..] else {
        panic!("a warning")
    };
    assert_eq!(warning.code, "unknown_words");
    assert_eq!(warning.param.as_deref(), Some("prompt"));
    assert!(
        warning.message.ends_with("'unicorn', 'dragon'."),
        "{}",
        warning.message
    );
}

#[test]
fn weights_with_very_short_clips_refuse_long_films() {
    let settings = CatalogueSettings {
        expected: vec![ExpectedWeights {
            frames_max: 5,
            ..CatalogueSettings::default().expected[0].clone()
        }],
        ..CatalogueSettings::default()
    };
    let catalogue = Catalogue::new(&settings, &[]);
    let ask = |seconds: &str| {
        let request = VideoRequest {
            seconds: Some(seconds.into()),
            ..request()
        };
        decide(&request, &catalogue, &Blocklist::default(), 7)
    };
    assert_eq!(renders(&ask("12").unwrap()).len(), 39);
    assert_eq!(ask("16").unwrap_err().param.as_deref(), Some("seconds"));
}

#[test]
fn a_blocked_prompt_makes_no_order() {
    let blocklist = Blocklist::new(["forbidden".to_owned()]);
    let ask = |prompt: &str| {
        let request = VideoRequest {
            prompt: prompt.into(),
            ..request()
        };
        decide(&request, &catalogue(), &blocklist, 7)
    };
    assert!(ask("a ball").is_ok());
    let refusal = ask("a Forbidden ball").unwrap_err();
    assert_eq!(refusal.code, Code::ModerationBlocked);
    assert_eq!(
        refusal.message,
        "Your request was blocked by our moderation system."
    );
}

fn png(width: u32, height: u32) -> Reference {
    let mut bytes = Cursor::new(Vec::new());
    image::RgbImage::new(width, height)
        .write_to(&mut bytes, image::ImageFormat::Png)
        .unwrap();
    Reference(bytes.into_inner().into())
}

#[test]
fn a_reference_becomes_the_first_frame_of_the_first_shot() {
    let order = accepted(VideoRequest {
        input_reference: Some(png(720, 1280)),
        seconds: Some("8".into()),
        ..request()
    });
    let digest = order.files[0].digest();
    assert_eq!(renders(&order)[0].first_frame, Some(digest));
    assert_eq!(renders(&order)[1].first_frame, None);
    let own = ShotRequest {
        input_reference: Some(png(720, 1280)),
        ..shot("b", "4")
    };
    let board = accepted(VideoRequest {
        shots: vec![shot("a", "4"), own],
        ..request()
    });
    assert_eq!(renders(&board)[0].first_frame, None);
    assert_eq!(renders(&board)[1].first_frame, Some(digest));
    refused(
        VideoRequest {
            input_reference: Some(png(1280, 720)),
            ..request()
        },
        expect![
            "invalid_value: Inpaint image must match the requested width and height [input_reference]"
        ],
    );
    refused(
        VideoRequest {
            input_reference: Some(Reference(Bytes::from_static(b"x"))),
            ..request()
        },
        expect![
            "invalid_image: The image in 'input_reference' is no PNG, JPEG or WebP file. [input_reference]"
        ],
    );
}

#[test]
fn an_order_becomes_a_job_whose_last_task_waits_for_all_others() {
    let order = accepted(VideoRequest {
        seconds: Some("12".into()),
        input_reference: Some(png(720, 1280)),
        ..request()
    });
    let record = order.record.clone();
    let submission = Submission {
        id: JobId(Uuid::from_u128(1)),
        project: AccountId(Uuid::from_u128(2)),
        user: None,
        dedupe: None,
        idempotency: None,
    };
    let mut next = 10;
    let job = order.into_job(submission, || {
        next += 1;
        TaskId(Uuid::from_u128(next))
    });
    assert_eq!(job.tasks.len(), 4);
    assert_eq!(job.tasks[3].inputs, [0, 1, 2]);
    assert!(job.tasks[..3].iter().all(|task| task.inputs.is_empty()));
    assert_eq!(job.tasks[0].reads.len(), 1);
    assert_eq!(
        serde_json::from_value::<JobRecord>(job.request).unwrap(),
        record
    );
}

fn keyframe(seconds: f64) -> Keyframe {
    Keyframe {
        seconds,
        input_reference: png(720, 1280),
    }
}

fn source(name: &str) -> Source {
    Source::stored(Digest::of(name.as_bytes()))
}

#[test]
fn pictures_at_times_reach_the_shots_that_show_them() {
    let order = accepted(VideoRequest {
        seconds: Some("8".into()),
        keyframes: vec![keyframe(1.5), keyframe(5.0)],
        last_reference: Some(png(720, 1280)),
        reference_strength: Some(0.5),
        ..request()
    });
    let frames = |spec: &RenderSpec| -> Vec<(u32, f32)> {
        let stills = spec.given().stills.iter();
        stills.map(|still| (still.frame, still.strength)).collect()
    };
    let [first, second] = renders(&order)[..] else {
        panic!("two shots")
    };
    assert_eq!(frames(first), [(24, 0.5)]);
    assert_eq!(frames(second), [(16, 0.5), (63, 0.5)]);
    let stored: Vec<Digest> = order.files.iter().map(Upload::digest).collect();
    assert!(first.reads().iter().all(|digest| stored.contains(digest)));
    refused(
        VideoRequest {
            keyframes: vec![keyframe(4.0)],
            ..request()
        },
        expect![
            "invalid_value: Invalid value for 'keyframes[0].seconds': 4 s is behind the end of the film, 4 s. [keyframes[0].seconds]"
        ],
    );
    refused(
        VideoRequest {
            keyframes: vec![Keyframe {
                input_reference: png(64, 64),
                ..keyframe(1.0)
            }],
            ..request()
        },
        expect![
            "invalid_value: Inpaint image must match the requested width and height [keyframes[0].input_reference]"
        ],
    );
    refused(
        VideoRequest {
            reference_strength: Some(0.0),
            ..request()
        },
        expect![
            "invalid_value: Invalid value for 'reference_strength': it is above 0 and at most 1. [reference_strength]"
        ],
    );
}

#[test]
fn a_retake_lies_in_the_shots_that_it_meets() {
    let retaken = |from_s, to_s| VideoRequest {
        seconds: Some("8".into()),
        video_reference: Some(source("film")),
        retake: Some(Retake {
            from_s,
            to_s,
            picture: true,
            sound: false,
        }),
        ..request()
    };
    let order = accepted(retaken(3.0, 5.0));
    let spans: Vec<Option<(f64, f64)>> = renders(&order)
        .iter()
        .map(|spec| spec.given().film.as_ref().unwrap())
        .map(|film| film.part.remake.map(|span| (span.from_s, span.to_s)))
        .collect();
    assert_eq!(spans, [Some((3.0, 5.0)), Some((0.0, 1.0))]);
    for spec in renders(&order) {
        let sound = spec.given().sound.as_ref().unwrap();
        assert_eq!((sound.file, sound.remake), (Digest::of(b"film"), None));
        assert_eq!(
            (sound.start_frame, sound.film_frames),
            (64 * spec.shot, 128)
        );
    }
    let apart = accepted(retaken(0.0, 1.0));
    let second = renders(&apart)[1].given().film.as_ref().unwrap();
    assert_eq!(second.part.remake, None);
    refused(
        retaken(9.0, 10.0),
        expect![
            "invalid_value: Invalid value for 'retake': it begins at 9 s, but the film ends at 8 s. [retake]"
        ],
    );
    refused(
        VideoRequest {
            video_reference: None,
            ..retaken(1.0, 2.0)
        },
        expect![
            "invalid_value: Invalid value for 'retake': it needs a film that is given. [retake]"
        ],
    );
    refused(
        VideoRequest {
            video_reference: Some(source("film")),
            audio_reference: Some(source("song")),
            ..request()
        },
        expect![
            "invalid_value: Invalid value for 'audio_reference': a given film and a given sound leave nothing to make: add 'retake', or leave one out. [audio_reference]"
        ],
    );
}

#[test]
fn a_shot_that_continues_waits_for_the_one_before_and_gets_its_end() {
    let on = ShotRequest {
        continues: true,
        ..shot("b", "2")
    };
    let board = |shots| VideoRequest { shots, ..request() };
    let order = accepted(board(vec![shot("a", "2"), on.clone(), shot("c", "1")]));
    let contexts: Vec<_> = renders(&order)
        .iter()
        .map(|spec| spec.given().context.clone())
        .map(|context| context.map(|c| (c.film, c.end_frame, c.frames)))
        .collect();
    assert_eq!(contexts, [None, Some((None, 32, 17)), None]);
    let submission = Submission {
        id: JobId(Uuid::nil()),
        project: AccountId(Uuid::nil()),
        user: None,
        dedupe: None,
        idempotency: None,
    };
    let job = order.into_job(submission, || TaskId(Uuid::nil()));
    let inputs: Vec<_> = job.tasks.iter().map(|task| task.inputs.clone()).collect();
    assert_eq!(inputs, [vec![], vec![0], vec![], vec![0, 1, 2]]);
    refused(
        board(vec![on, shot("a", "2")]),
        expect![
            "invalid_value: Invalid value for 'shots[0].join': there is no shot before the first that it could continue. [shots[0].join]"
        ],
    );
}

#[test]
fn an_extension_begins_with_the_end_of_its_film_and_tells_the_whole_length() {
    let extension = |extensions, seconds| VideoRequest {
        continues: Some(Continuation {
            source: source("film"),
            seconds,
            frames: seconds * 16,
            extensions,
        }),
        ..request()
    };
    let order = accepted(extension(0, 8));
    assert_eq!((order.record.seconds, order.record.extensions), (12, 1));
    let film = Digest::of(b"film");
    assert_eq!(assemble(&order).before.as_ref().unwrap().film, film);
    assert_eq!(assemble(&order).shot_frames, [32, 32]);
    let first = renders(&order)[0].given().context.clone().unwrap();
    assert_eq!(
        (first.film, first.end_frame, first.frames),
        (Some(film), 128, 17)
    );
    let second = renders(&order)[1].given().context.clone().unwrap();
    assert_eq!((second.film, second.end_frame), (None, 32));
    assert_eq!(order.tasks[2].reads(), [film]);
    refused(
        extension(6, 28),
        expect![
            "extension_limit_exceeded: This video has been extended 6 times; at most 6 are allowed. [video]"
        ],
    );
    refused(
        extension(1, 118),
        expect![
            "extension_limit_exceeded: The video would last 122 seconds; at most 120 are allowed. [video]"
        ],
    );
}

#[test]
fn an_order_of_before_given_things_is_read_and_written_as_it_was() {
    let order = accepted(request());
    let spec = serde_json::to_value(renders(&order)[0]).unwrap();
    assert!(spec.get("given").is_none());
    let read: RenderSpec = serde_json::from_value(spec).unwrap();
    assert_eq!(&read, renders(&order)[0]);
}
#[test]
fn a_film_on_several_devices_holds_the_time_of_all_of_them() {
    let on = |devices| {
        accepted(VideoRequest {
            devices,
            ..request()
        })
    };
    let (one, two) = (on(None), on(Some(2)));
    assert_eq!((renders(&one)[0].devices, renders(&two)[0].devices), (1, 2));
    assert_eq!(one.tasks[1].devices(), 1, "a film is joined on one device");
    // They share steps and decoding evenly; what comes before is there twice.
    assert!(two.estimates[0].0 < one.estimates[0].0 && 2 * two.estimates[0].0 > one.estimates[0].0);
    assert!(two.price() > one.price() && two.hold > one.hold);
    assert_eq!((one.record.devices, two.record.devices), (None, Some(2)));
    refused(
        VideoRequest {
            devices: Some(3),
            ..request()
        },
        expect![
            "invalid_value: Invalid value for 'devices': supported values are '1', '2', '4' and '8'. [devices]"
        ],
    );
}
