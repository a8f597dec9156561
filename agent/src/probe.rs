//! The probe of a device: a small known recipe, rendered twice. Both times must give the same bits.

use std::sync::Arc;

use diffusion::{
    Clip, Control, DiffusionError, Generated, ModelInfo, Progress, Recipe, Start, Weights,
};
use schemas::{
    Digest,
    agent::{PROBE_WEIGHTS, ProbeOutcome},
};

use crate::{client::chain, studio::Studio};

/// Steps are few: a device that computes wrongly does so in each of them.
const STEPS: u32 = 4;
/// Frames beyond the first, in units of the model's own step.
const FRAME_STEPS: u32 = 2;

/// Renders the probe on this node's device. `None` when `stop` said so before the end.
pub async fn run(
    studio: &Arc<Studio>,
    stop: impl Fn() -> bool + Send + Sync + 'static,
) -> Option<ProbeOutcome> {
    let team = match studio.team(1) {
        Ok(team) => team,
        Err(error) => return Some(failed(error.to_string())),
    };
    let studio = Arc::clone(studio);
    let twice = move || {
        let entry = studio.catalogue.get(PROBE_WEIGHTS);
        let weights = entry.map_err(|error| chain(&error))?.weights;
        let recipe = recipe(weights.info());
        let once = || match &team {
            Some(team) => team.run(|| render(&weights, &recipe, &stop)),
            None => render(&weights, &recipe, &stop),
        };
        let twice = || {
            studio.catalogue.make_room(&weights, &recipe)?;
            Ok((once()?, once()?))
        };
        twice().map_err(|error: DiffusionError| error.to_string())
    };
    match tokio::task::spawn_blocking(twice).await {
        Ok(Ok((Some(first), Some(second)))) if first == second => {
            Some(ProbeOutcome::Rendered { digest: first })
        }
        Ok(Ok((Some(_), Some(_)))) => Some(failed("two runs gave different films".into())),
        Ok(Ok(_)) => None,
        Ok(Err(message)) => Some(failed(message)),
        Err(_) => Some(failed("the engine stopped at a broken invariant".into())),
    }
}

fn failed(message: String) -> ProbeOutcome {
    ProbeOutcome::Failed { message }
}

fn render(
    weights: &Weights,
    recipe: &Recipe,
    stop: &(dyn Fn() -> bool + Sync),
) -> Result<Option<Digest>, DiffusionError> {
    let mut clip = Clip::default();
    let mut on_step = |_: &Progress<'_>| match stop() {
        true => Control::Pause,
        false => Control::Continue,
    };
    let ended = diffusion::generate(weights, recipe, Start::Fresh, &mut on_step, &mut clip)?;
    Ok(match ended {
        Generated::Finished => Some(digest(&clip)),
        Generated::Paused(_) => None,
    })
}

/// The smallest picture of the model and a few of its frames.
pub(crate) fn recipe(info: &ModelInfo) -> Recipe {
    let area = |size: &&diffusion::Size| size.width * size.height;
    let size = info.sizes.iter().min_by_key(area);
    let (width, height) = size.map_or((64, 64), |size| (size.width, size.height));
    let recipe = Recipe::with_defaults("a red ball falls and bounces on the floor", 7, info);
    Recipe {
        width,
        height,
        frames: (FRAME_STEPS * info.frames_step + 1).min(info.frames_max),
        steps: Some(STEPS),
        ..recipe
    }
}

/// Over the latents and all that was decoded from them.
fn digest(clip: &Clip) -> Digest {
    let mut bytes = clip.latents_digest.clone().into_bytes();
    bytes.extend_from_slice(&clip.frames);
    bytes.extend(clip.samples.iter().flat_map(|sample| sample.to_le_bytes()));
    Digest::of(&bytes)
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

    use kernels::Device;
    use serde_json::json;

    use super::*;
    use crate::{
        catalogue::Catalogue, held::Leases, metrics::Metrics, mux::Ffmpeg, scripted::serve,
        settings::Settings,
    };

    fn studio(threads: usize) -> Arc<Studio> {
        let device = Device::cpu(threads).unwrap();
        Arc::new(Studio {
            catalogue: Catalogue::open(&[], &device).unwrap(),
            ffmpeg: Ffmpeg::find(None).unwrap(),
            settings: Settings::default(),
            metrics: Metrics::new(),
            tails: Default::default(),
        })
    }

    async fn digest_on(threads: usize) -> Digest {
        match run(&studio(threads), || false).await {
            Some(ProbeOutcome::Rendered { digest }) => digest,
            other => panic!("{other:?}"),
        }
    }

    #[tokio::test]
    async fn the_probe_gives_the_same_on_any_number_of_threads_and_ends_when_told() {
        assert_eq!(digest_on(1).await, digest_on(2).await);
        assert!(run(&studio(1), || true).await.is_none());
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_worker_that_is_offered_the_probe_renders_it_and_tells_what_came_out() {
        const ID: &str = "01890000-0000-7000-8000-000000000001";
        let leases = Arc::new(Leases::default());
        let (told, polls) = (Arc::clone(&leases), AtomicU64::new(0));
        let server = serve(move |path, _| match path {
            "hello" => {
                Some(json!({"agent": ID, "term": 1, "heartbeat_ms": 1_000, "lease_ttl_ms": 30_000}))
            }
            "lease" if polls.fetch_add(1, Relaxed) == 0 => Some(json!({"answer": "probe"})),
            "probe" => {
                told.drain(); // ends the worker after this answer
                Some(json!({"answer": "accepted"}))
            }
            _ => Some(json!({"answer": "idle", "why": "test"})),
        });
        let scratch = tempfile::tempdir().unwrap();
        let worker = server.worker(3, &studio(1), leases, scratch.path()).await;
        worker.run().await.unwrap();
        let reports = server.bodies("probe");
        assert_eq!(reports.len(), 1);
        assert_eq!(
            (&reports[0]["agent"], &reports[0]["device"]),
            (&json!(ID), &json!(3))
        );
        let outcome = &reports[0]["outcome"];
        assert_eq!(outcome["outcome"], "rendered", "{outcome}");
        assert_eq!(outcome["digest"], digest_on(2).await.to_string());
    }
}
