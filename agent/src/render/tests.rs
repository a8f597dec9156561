//! Checkpoints that cannot be resumed and engines that break: told, counted, and never the film's end.

mod card;

use diffusion::{Clip, Sink};
use kernels::Device;
use schemas::{
    AgentId, BootId, TaskId,
    agent::{FailureClass, LeaseRef},
    task::TaskKind,
};
use serde_json::json;

use super::*;
use crate::{
    catalogue::{Catalogue, find_builtin},
    client::Client,
    mux::{Ffmpeg, go_on},
    scripted::serve,
    settings::Settings,
};

const ID: &str = "01890000-0000-7000-8000-000000000001";

fn held() -> Arc<Held> {
    let lease = LeaseRef {
        task: ID.parse::<TaskId>().unwrap(),
        attempt: 1,
        term: 1,
        agent: ID.parse::<AgentId>().unwrap(),
        boot: ID.parse::<BootId>().unwrap(),
    };
    Arc::new(Held::new(
        lease,
        TaskKind::Render,
        BootMs::now(),
        3_600_000,
        5_000,
    ))
}

fn studio() -> Arc<Studio> {
    let device = Device::cpu(1).unwrap();
    Arc::new(Studio {
        catalogue: Catalogue::open(&[], &device).unwrap(),
        ffmpeg: Ffmpeg::find(None).unwrap(),
        settings: Settings::default(),
        metrics: Metrics::new(),
        tails: Default::default(),
    })
}

fn short(weights: &Weights, seed: u64) -> Recipe {
    Recipe {
        frames: 5,
        steps: Some(2),
        ..Recipe::with_defaults("a red ball", seed, weights.info())
    }
}

/// A checkpoint after the first step.
fn checkpoint(weights: &Weights, recipe: &Recipe) -> Checkpoint {
    let mut on_step = |progress: &Progress<'_>| match progress.step {
        1 => Control::Pause,
        _ => Control::Continue,
    };
    let mut sink = Clip::default();
    match diffusion::generate(weights, recipe, Start::Fresh, &mut on_step, &mut sink).unwrap() {
        Generated::Paused(checkpoint) => *checkpoint,
        Generated::Finished => panic!("it should have paused"),
    }
}

fn refused(metrics: &Metrics, why: &str) -> u64 {
    metrics.checkpoints_refused.with_label_values(&[why]).get()
}

#[test]
fn a_checkpoint_that_cannot_be_read_is_told_by_its_reason_and_the_shot_begins_anew() {
    let weights = Weights::open(&find_builtin().unwrap(), &Device::cpu(1).unwrap()).unwrap();
    let bytes = checkpoint(&weights, &short(&weights, 1)).to_bytes();
    let metrics = Metrics::new();
    let start = |bytes: Option<&[u8]>| start_from(bytes, 1, &metrics);
    assert!(matches!(start(Some(&bytes)), Start::Resume(at) if at.step() == 1));
    let mut newer = bytes.clone();
    newer[4] += 1;
    for (bytes, why) in [
        (Some(newer.as_slice()), "version"),
        (Some(&bytes[..bytes.len() - 1]), "damaged"),
        (Some(b"film"), "damaged"),
        (None, "lost"),
    ] {
        let before = refused(&metrics, why);
        assert!(matches!(start(bytes), Start::Fresh), "{why}");
        assert_eq!(refused(&metrics, why), before + 1, "{why}");
    }
}

#[test]
fn a_checkpoint_of_another_recipe_is_told_and_the_film_is_that_of_no_checkpoint() {
    let studio = studio();
    let weights = &studio.catalogue.get("builtin").unwrap().weights;
    let foreign = checkpoint(weights, &short(weights, 1));
    let recipe = short(weights, 2);
    let film = |start| {
        let (sender, _newest) = watch::channel(None);
        let mut look = Look::new(&studio, &held(), sender, 1);
        let mut clip = Clip::default();
        let ended = generate(
            weights,
            &recipe,
            start,
            &mut look,
            &studio.metrics,
            &mut clip,
        );
        assert!(matches!(ended.unwrap(), Generated::Finished));
        (clip.latents_digest, clip.frames)
    };
    let fresh = film(Start::Fresh);
    assert_eq!(refused(&studio.metrics, "foreign"), 0);
    assert!(film(Start::Resume(Box::new(foreign))) == fresh);
    assert_eq!(refused(&studio.metrics, "foreign"), 1);
}

#[tokio::test]
async fn an_engine_that_panics_ends_its_attempt_with_a_report_and_no_file() {
    let server = serve(|_, _| Some(json!({"answer": "accepted"})));
    let scratch = tempfile::tempdir().unwrap();
    let desk = Desk {
        client: Client::new(&server.url, "token").unwrap(),
        held: held(),
        dir: scratch.path().to_path_buf(),
        team: None,
    };
    let path = scratch.path().join("shot.mkv");
    let (ffmpeg, target) = (Ffmpeg::find(None).unwrap(), path.clone());
    let shoot = move || {
        shot::write(&ffmpeg, &target, &go_on, |feed| {
            let slate = diffusion::Slate {
                width: 32,
                height: 32,
                fps: 16,
                frames: 5,
                sample_rate: 16_000,
                channels: 1,
                latents_digest: String::new(),
            };
            feed.open(&slate, vec![0.0; 5_000]);
            feed.pictures(&[7; 32 * 32 * 3]);
            panic!("the latents have no shape");
        })
    };
    let Err(Broken::Failed { class, message, .. }) = desk.blocking(shoot).await else {
        panic!("a panic is a failure")
    };
    assert_eq!(class, FailureClass::Internal);
    assert!(message.contains("the latents have no shape"), "{message}");
    assert!(!path.exists() && !path.with_extension("wav").exists());
    let cause = class;
    assert!(!desk.held.has_reported());
    desk.report(Outcome::Failed {
        cause,
        message,
        peak_bytes: None,
    })
    .await
    .unwrap();
    assert!(desk.held.has_reported());
    let told = server.bodies("report");
    assert_eq!(told[0]["outcome"]["outcome"], "failed");
    assert!(
        told[0]["outcome"]["message"]
            .to_string()
            .contains("no shape")
    );
}
