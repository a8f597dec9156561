//! What a request may say: every rule of the create call, and the defaults of what it does not say.

use schemas::task::GROUP_SIZES;

use super::{
    Catalogue, Code, Lineage, Model, Operation, Priority, Reference, Refusal, ShotRequest, Size,
    VideoRequest,
    given::{self, GivenWish},
};
use crate::storyboard::Take;

/// Largest seed: every JSON reader holds it exactly.
pub const SEED_MAX: u64 = (1 << 53) - 1;
const PROMPT_CHARS_MAX: usize = 32_000;
const SHOT_PROMPT_CHARS_MAX: usize = 8_000;
const NEGATIVE_CHARS_MAX: usize = 4_000;
const METADATA_PAIRS_MAX: usize = 16;
const METADATA_KEY_CHARS_MAX: usize = 64;
const METADATA_VALUE_CHARS_MAX: usize = 512;
const STEPS_MAX: i64 = 100;
const GUIDANCE_MAX: f64 = 30.0;
/// Shots of a storyboard; a long one may become several Render tasks.
const STORYBOARD_SHOTS_MAX: usize = 20;
const SHOT_SECONDS_MAX: u32 = 20;
const STORYBOARD_SECONDS_MAX: u32 = 120;
/// `start` of a job that waits for no window.
pub const START_NOW: &str = "now";
/// The last second of the year 9999.
const SECONDS_MAX: i64 = 253_402_300_799;
const SECONDS_DEFAULT: &str = "4";
const SIZE_DEFAULT: &str = "720x1280";

/// A request that keeps all rules, with its defaults filled in.
#[derive(Debug)]
pub(super) struct Wish<'a> {
    /// The name as it was sent, or the default.
    pub model: &'a Model,
    pub prompt: String,
    pub seconds: u32,
    pub size: Size,
    pub native: Size,
    pub seed: u64,
    pub steps: Option<u32>,
    pub guidance_scale: Option<f32>,
    pub negative_prompt: String,
    pub metadata: std::collections::BTreeMap<String, String>,
    pub takes: Vec<Take>,
    /// Reference images and the field that each came in; takes point into this list.
    pub references: Vec<(String, &'a Reference)>,
    pub priority: Priority,
    /// Name of a window of the farm.
    pub window: Option<String>,
    /// Unix seconds, both.
    pub not_before: Option<i64>,
    pub deadline: Option<i64>,
    pub given: GivenWish<'a>,
    pub lineage: Lineage,
    /// Devices that work on each shot at once.
    pub devices: u32,
}

pub(super) fn check<'a>(
    request: &'a VideoRequest,
    catalogue: &'a Catalogue,
    seed: u64,
) -> Result<Wish<'a>, Refusal> {
    let model = model(request, catalogue)?;
    check_text("prompt", &request.prompt, PROMPT_CHARS_MAX)?;
    check_negative("negative_prompt", &request.negative_prompt)?;
    check_metadata(request)?;
    let size = size(request, model)?;
    let seconds = seconds(request, model)?;
    let mut wish = Wish {
        model,
        prompt: request.prompt.clone(),
        seconds,
        size,
        native: model.native_size(size),
        seed: checked_seed("seed", request.seed)?.unwrap_or(seed & SEED_MAX),
        steps: steps(request)?,
        guidance_scale: guidance(request)?,
        negative_prompt: request.negative_prompt.clone(),
        metadata: request.metadata.clone(),
        takes: Vec::new(),
        references: Vec::new(),
        priority: request.priority,
        window: window(request, catalogue)?,
        not_before: instant("not_before", request.not_before)?,
        deadline: instant("deadline", request.deadline)?,
        given: given::check(request, seconds * model.clip.fps, model.clip.fps)?,
        lineage: request.lineage.clone(),
        devices: devices(request)?,
    };
    add_takes(&mut wish, request)?;
    Ok(wish)
}

fn window(request: &VideoRequest, catalogue: &Catalogue) -> Result<Option<String>, Refusal> {
    match request.start.as_deref() {
        None | Some(START_NOW) => Ok(None),
        Some(name) if catalogue.windows.iter().any(|known| known == name) => Ok(Some(name.into())),
        Some(_) => {
            let now = START_NOW.to_string();
            let known = list(std::iter::once(&now).chain(&catalogue.windows));
            Err(Refusal::wrong_value(
                "start",
                format!("supported values are {known}"),
            ))
        }
    }
}

/// Unix seconds from 1970 to 9999. Whether the instant makes sense today, the farm says.
fn instant(param: &str, seconds: Option<i64>) -> Result<Option<i64>, Refusal> {
    match seconds {
        Some(at) if !(0..=SECONDS_MAX).contains(&at) => Err(Refusal::wrong_value(
            param,
            "it is an instant in Unix seconds, or a text such as 2027-01-31T08:00:00+01:00",
        )),
        other => Ok(other),
    }
}

fn model<'a>(request: &VideoRequest, catalogue: &'a Catalogue) -> Result<&'a Model, Refusal> {
    let name = request.model.as_deref().unwrap_or(&catalogue.default_model);
    catalogue
        .get(name)
        .ok_or_else(|| unknown_model(name, catalogue).about("model"))
}

/// The refusal for a model that the catalogue does not hold.
pub fn unknown_model(name: &str, catalogue: &Catalogue) -> Refusal {
    let shown: String = name.chars().take(80).collect();
    let known = list(catalogue.models.iter().map(|model| &model.name));
    Refusal::new(
        Code::ModelNotFound,
        format!("The model '{shown}' does not exist. Models of this server are {known}."),
    )
}

fn check_text(param: &str, text: &str, chars_max: usize) -> Result<(), Refusal> {
    if text.trim().is_empty() {
        return Err(Refusal::wrong_value(param, "it must not be empty"));
    }
    let chars = text.chars().count();
    if chars > chars_max {
        return Err(Refusal::wrong_value(
            param,
            format!("it has {chars} characters, at most {chars_max} are allowed"),
        ));
    }
    Ok(())
}

fn check_negative(param: &str, text: &str) -> Result<(), Refusal> {
    if text.chars().count() > NEGATIVE_CHARS_MAX {
        return Err(Refusal::wrong_value(
            param,
            format!("at most {NEGATIVE_CHARS_MAX} characters are allowed"),
        ));
    }
    Ok(())
}

fn check_metadata(request: &VideoRequest) -> Result<(), Refusal> {
    let bad = |why: String| Err(Refusal::wrong_value("metadata", why));
    if request.metadata.len() > METADATA_PAIRS_MAX {
        return bad(format!("at most {METADATA_PAIRS_MAX} pairs are allowed"));
    }
    for (key, value) in &request.metadata {
        if key.is_empty() || key.chars().count() > METADATA_KEY_CHARS_MAX {
            return bad(format!(
                "a key has 1 to {METADATA_KEY_CHARS_MAX} characters"
            ));
        }
        if value.chars().count() > METADATA_VALUE_CHARS_MAX {
            return bad(format!(
                "a value has at most {METADATA_VALUE_CHARS_MAX} characters"
            ));
        }
    }
    Ok(())
}

fn size(request: &VideoRequest, model: &Model) -> Result<Size, Refusal> {
    let wanted = request.size.as_deref().unwrap_or(SIZE_DEFAULT);
    model
        .sizes
        .iter()
        .copied()
        .find(|size| size.to_string() == wanted)
        .ok_or_else(|| {
            Refusal::wrong_value(
                "size",
                format!("supported values are {}", list(&model.sizes)),
            )
        })
}

/// With a storyboard the length is the sum of its shots; an explicit one must be that sum.
fn seconds(request: &VideoRequest, model: &Model) -> Result<u32, Refusal> {
    if !request.shots.is_empty() {
        return storyboard_seconds(request);
    }
    let wanted = request.seconds.as_deref().unwrap_or(SECONDS_DEFAULT);
    if matches!(
        request.lineage.operation,
        Operation::Remix | Operation::Edit
    ) && let Some(length) = (1..=STORYBOARD_SECONDS_MAX).find(|s| s.to_string() == wanted)
    {
        // It is as long as the video that it is made of, which may have been extended.
        return Ok(length);
    }
    model
        .seconds
        .iter()
        .copied()
        .find(|seconds| seconds.to_string() == wanted)
        .ok_or_else(|| {
            Refusal::wrong_value(
                "seconds",
                format!("supported values are {}", list(&model.seconds)),
            )
        })
}

fn storyboard_seconds(request: &VideoRequest) -> Result<u32, Refusal> {
    if request.shots.len() > STORYBOARD_SHOTS_MAX {
        return Err(Refusal::wrong_value(
            "shots",
            format!("at most {STORYBOARD_SHOTS_MAX} are allowed"),
        ));
    }
    let mut total = 0;
    for (place, shot) in request.shots.iter().enumerate() {
        total += shot_seconds(place, shot)?;
    }
    if total > STORYBOARD_SECONDS_MAX {
        return Err(Refusal::wrong_value(
            "shots",
            format!("they add up to {total} seconds, at most {STORYBOARD_SECONDS_MAX} are allowed"),
        ));
    }
    match request.seconds.as_deref() {
        Some(explicit) if explicit != total.to_string() => Err(Refusal::wrong_value(
            "seconds",
            format!("the shots add up to {total}; send that or leave 'seconds' out"),
        )),
        _ => Ok(total),
    }
}

fn shot_seconds(place: usize, shot: &ShotRequest) -> Result<u32, Refusal> {
    (1..=SHOT_SECONDS_MAX)
        .find(|seconds| seconds.to_string() == shot.seconds)
        .ok_or_else(|| {
            Refusal::wrong_value(
                &format!("shots[{place}].seconds"),
                format!("a shot has 1 to {SHOT_SECONDS_MAX} whole seconds"),
            )
        })
}

fn checked_seed(param: &str, seed: Option<i64>) -> Result<Option<u64>, Refusal> {
    match seed.map(u64::try_from) {
        None => Ok(None),
        Some(Ok(seed)) if seed <= SEED_MAX => Ok(Some(seed)),
        Some(_) => Err(Refusal::wrong_value(
            param,
            format!("a seed is an integer from 0 to {SEED_MAX}"),
        )),
    }
}

fn steps(request: &VideoRequest) -> Result<Option<u32>, Refusal> {
    match request.steps {
        None => Ok(None),
        Some(steps) if (1..=STEPS_MAX).contains(&steps) => Ok(u32::try_from(steps).ok()),
        Some(_) => Err(Refusal::wrong_value(
            "steps",
            format!("it is 1 to {STEPS_MAX}"),
        )),
    }
}

fn devices(request: &VideoRequest) -> Result<u32, Refusal> {
    let asked = request.devices.unwrap_or(1);
    let known = GROUP_SIZES
        .into_iter()
        .find(|size| i64::from(*size) == asked);
    known.ok_or_else(|| {
        Refusal::wrong_value(
            "devices",
            format!("supported values are {}", list(GROUP_SIZES)),
        )
    })
}

fn guidance(request: &VideoRequest) -> Result<Option<f32>, Refusal> {
    match request.guidance_scale {
        None => Ok(None),
        Some(scale) if (0.0..=GUIDANCE_MAX).contains(&scale) => Ok(Some(scale as f32)),
        Some(_) => Err(Refusal::wrong_value(
            "guidance_scale",
            format!("it is 0 to {GUIDANCE_MAX}"),
        )),
    }
}

/// The takes of the storyboard, or the whole film as one take. Collects their references.
fn add_takes<'a>(wish: &mut Wish<'a>, request: &'a VideoRequest) -> Result<(), Refusal> {
    let mut place_of = |param: String, reference: &'a Reference| {
        wish.references.push((param, reference));
        wish.references.len() - 1
    };
    let top = request.input_reference.as_ref();
    let clip = wish.model.clip;
    let joined = request.continues.is_some() || request.shots.iter().any(|shot| shot.continues);
    let context = match joined {
        true => Some(given::context_frames(request, clip)?),
        false => None,
    };
    if request.shots.is_empty() {
        wish.takes.push(Take {
            prompt: wish.prompt.clone(),
            negative_prompt: wish.negative_prompt.clone(),
            seconds: wish.seconds,
            seed: None,
            reference: top.map(|reference| place_of("input_reference".into(), reference)),
            context,
        });
        return Ok(());
    }
    for (place, shot) in request.shots.iter().enumerate() {
        let path = format!("shots[{place}]");
        check_text(
            &format!("{path}.prompt"),
            &shot.prompt,
            SHOT_PROMPT_CHARS_MAX,
        )?;
        let negative = shot
            .negative_prompt
            .as_ref()
            .unwrap_or(&wish.negative_prompt);
        check_negative(&format!("{path}.negative_prompt"), negative)?;
        let own = shot.input_reference.as_ref();
        check_join(place, shot)?;
        let reference = match (own, top) {
            (Some(own), _) => Some(place_of(format!("{path}.input_reference"), own)),
            (None, Some(top)) if place == 0 => Some(place_of("input_reference".into(), top)),
            (None, _) => None,
        };
        wish.takes.push(Take {
            prompt: format!("{} {}", wish.prompt, shot.prompt),
            negative_prompt: negative.clone(),
            seconds: shot_seconds(place, shot)?,
            seed: checked_seed(&format!("{path}.seed"), shot.seed)?,
            reference,
            context: context.filter(|_| shot.continues),
        });
    }
    Ok(())
}

/// A shot that goes on needs one before it, and begins with that one's end.
fn check_join(place: usize, shot: &ShotRequest) -> Result<(), Refusal> {
    let why = match (shot.continues, place) {
        (false, _) => return Ok(()),
        (true, 0) => "there is no shot before the first that it could continue",
        (true, _) if shot.input_reference.is_some() => {
            "a shot that continues begins with the end of the one before; leave its image out"
        }
        (true, _) => return Ok(()),
    };
    Err(Refusal::wrong_value(&format!("shots[{place}].join"), why))
}

/// `'a', 'b' and 'c'`.
fn list(items: impl IntoIterator<Item = impl std::fmt::Display>) -> String {
    let items: Vec<String> = items.into_iter().map(|item| format!("'{item}'")).collect();
    match items.split_last() {
        None => "none".to_owned(),
        Some((only, [])) => only.clone(),
        Some((last, others)) => format!("{} and {last}", others.join(", ")),
    }
}
