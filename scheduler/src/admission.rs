//! From a request to an order for the farm, or a refusal: review, storyboard, price. Pure.
//!
//! The API parses and stores; everything that decides is here and takes no clock and no randomness.

mod catalogue;
mod given;
mod record;
mod reference;
mod refusal;
mod request;
mod rules;

use bytes::Bytes;
use schemas::{
    AccountId, Digest, GpuMicros, JobId, TaskId,
    given::GivenSpec,
    task::{AssembleSpec, RenderSpec, TaskSpec},
};

pub use catalogue::{Catalogue, CatalogueSettings, ExpectedWeights, Model, Size};
pub use record::{JobRecord, ShotRecord};
pub use refusal::{Code, Refusal};
pub use request::{
    Continuation, Keyframe, Lineage, Operation, Priority, Reference, ReferenceFit, Retake,
    ShotRequest, Source, VideoRequest,
};
pub use rules::{SEED_MAX, START_NOW, unknown_model};

use crate::{
    artifacts::Upload,
    core::limits::SHOTS_MAX,
    core::rows::{Dedupe, Idempotency, NewJob, NewTask},
    core::users::User,
    pricing::{Quote, charged, of_group},
    review::{self, Blocklist, Verdict},
    storyboard::{self, Shot},
};
use reference::Target;
use rules::Wish;

/// An accepted request: everything about the job is decided but its identities.
#[derive(Clone, Debug)]
pub struct Order {
    /// What the API keeps to answer with later.
    pub record: JobRecord,
    pub seed: u64,
    /// Render tasks in film order, then `Assemble`.
    pub tasks: Vec<TaskSpec>,
    /// Expected time of each task on its devices.
    pub estimates: Vec<GpuMicros>,
    pub hold: GpuMicros,
    /// Files that must be in the artefact store before the job is submitted.
    pub files: Vec<Upload>,
}

/// Identities and protections of a job; made at the edge.
#[derive(Clone, Debug)]
pub struct Submission {
    pub id: JobId,
    pub project: AccountId,
    pub user: Option<User>,
    pub dedupe: Option<Dedupe>,
    pub idempotency: Option<Idempotency>,
}

/// Judges a request. `seed` is used when the request has none.
pub fn decide(
    request: &VideoRequest,
    catalogue: &Catalogue,
    blocklist: &Blocklist,
    seed: u64,
) -> Result<Order, Refusal> {
    let wish = rules::check(request, catalogue, seed)?;
    moderate(&wish, blocklist)?;
    let before = wish.given.before.map(|before| before.frames);
    let shots = storyboard::shots(&wish.takes, wish.model.clip, wish.seed, before);
    check_shots(&shots, &wish)?;
    let first_frames = first_frames(request, &wish)?;
    let cuts = given::cut(&wish, &shots, request.reference_fit)?;
    let tasks = tasks(&wish, &shots, &first_frames, cuts.given);
    let record = record::record(&wish, &shots);
    let quote = Quote::new(&tasks, &catalogue.prices, wish.model.cost, record.band());
    Ok(Order {
        seed: wish.seed,
        hold: quote.hold,
        record,
        tasks,
        estimates: quote.expected,
        files: first_frames
            .into_iter()
            .map(Upload::of)
            .chain(cuts.files)
            .collect(),
    })
}

/// Weights with very short clips would need more shots than the farm takes in one job.
fn check_shots(shots: &[Shot], wish: &Wish) -> Result<(), Refusal> {
    if shots.len() <= SHOTS_MAX {
        return Ok(());
    }
    Err(Refusal::wrong_value(
        "seconds",
        format!(
            "'{}' renders at most {} frames in one go, so the film would need {} shots; at most \
             {SHOTS_MAX} are allowed",
            wish.model.name,
            wish.model.clip.frames_max,
            shots.len()
        ),
    ))
}

fn moderate(wish: &Wish, blocklist: &Blocklist) -> Result<(), Refusal> {
    let texts = wish.takes.iter().map(|take| take.prompt.as_str());
    match review::verdict(texts, blocklist) {
        Verdict::Pass => Ok(()),
        Verdict::Blocked { phrase } => {
            tracing::info!(phrase, "a prompt was blocked");
            Err(Refusal::new(
                Code::ModerationBlocked,
                "Your request was blocked by our moderation system.",
            )
            .about("prompt"))
        }
    }
}

fn first_frames(request: &VideoRequest, wish: &Wish) -> Result<Vec<Bytes>, Refusal> {
    let target = |param| Target {
        fit: request.reference_fit,
        size: wish.size,
        native: wish.native,
        param,
    };
    wish.references
        .iter()
        .map(|(param, reference)| reference::picture(reference, target(param)))
        .collect()
}

fn tasks(
    wish: &Wish,
    shots: &[Shot],
    first_frames: &[Bytes],
    given: Vec<GivenSpec>,
) -> Vec<TaskSpec> {
    let frames: Vec<Digest> = first_frames.iter().map(|bytes| Digest::of(bytes)).collect();
    let render = |(place, (shot, given)): (usize, (&Shot, GivenSpec))| {
        TaskSpec::Render(RenderSpec {
            shot: u32::try_from(place).expect("a film has few shots"),
            weights: wish.model.weights.clone(),
            prompt: shot.prompt.clone(),
            negative_prompt: shot.negative_prompt.clone(),
            width: wish.native.width,
            height: wish.native.height,
            frames: shot.render_frames,
            fps: wish.model.clip.fps,
            seed: shot.seed,
            steps: wish.steps,
            guidance_scale: wish.guidance_scale,
            first_frame: shot.reference.map(|place| frames[place]),
            given: (!given.is_empty()).then(|| Box::new(given)),
            devices: wish.devices,
        })
    };
    let mut tasks: Vec<TaskSpec> = shots.iter().zip(given).enumerate().map(render).collect();
    tasks.push(TaskSpec::Assemble(AssembleSpec {
        shots: u32::try_from(shots.len()).expect("a film has few shots"),
        width: wish.size.width,
        height: wish.size.height,
        fps: wish.model.clip.fps,
        shot_frames: shots.iter().map(|shot| shot.film_frames).collect(),
        before: wish.given.before(),
    }));
    tasks
}

impl Order {
    /// What the whole job is expected to be charged.
    pub fn price(&self) -> GpuMicros {
        let each = self.estimates.iter().zip(&self.tasks);
        let times = each.map(|(time, spec)| of_group(*time, spec));
        charged(times, self.record.band())
    }

    /// The job for the farm. `mint` makes a new task id at each call.
    pub fn into_job(self, submission: Submission, mut mint: impl FnMut() -> TaskId) -> NewJob {
        let request = serde_json::to_value(&self.record)
            .expect("a record holds only strings, numbers and maps with string keys");
        let task = |(place, (spec, estimate)): (usize, (TaskSpec, GpuMicros))| NewTask {
            id: mint(),
            inputs: inputs(&spec, place),
            reads: spec.reads(),
            spec,
            estimate,
        };
        NewJob {
            id: submission.id,
            project: submission.project,
            request,
            seed: self.seed,
            band: self.record.band(),
            rank: self.record.priority.rank(),
            window: self.record.window.clone(),
            user: submission.user,
            not_before_ms: self.record.not_before.map(|s| s * 1_000),
            deadline_ms: self.record.deadline.map(|s| s * 1_000),
            tasks: self
                .tasks
                .into_iter()
                .zip(self.estimates)
                .enumerate()
                .map(task)
                .collect(),
            hold: self.hold,
            dedupe: submission.dedupe,
            idempotency: submission.idempotency,
        }
    }
}

/// Tasks whose outputs the task at `place` needs: all shots for the film, the one before for a shot that goes on
/// from it.
fn inputs(spec: &TaskSpec, place: usize) -> Vec<u32> {
    let place = u32::try_from(place).expect("a film has few shots");
    match spec {
        TaskSpec::Assemble(_) => (0..place).collect(),
        TaskSpec::Render(render) => {
            let context = render.given().context.as_ref();
            let before = context.filter(|context| context.film.is_none());
            before.map(|_| place - 1).into_iter().collect()
        }
    }
}

#[cfg(test)]
#[path = "admission/tests.rs"]
mod tests;
