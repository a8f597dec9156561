//! What a request gives of its film: checked against the film's length, then cut to shots. Pure.

use schemas::{
    given::{ContextSpec, FilmSpec, Fit, GivenSpec, PartSpec, SpanSpec, StillSpec},
    task::BeforeSpec,
};

use super::{
    Code, ReferenceFit, Refusal, VideoRequest,
    reference::{self, Target},
    request::{Continuation, Reference, Retake, Source},
    rules::Wish,
};
use crate::{
    artifacts::Upload,
    storyboard::{Clip, Shot},
};

/// Pictures of one shot, as many as the engine takes.
const STILLS_MAX: usize = 16;
/// Extensions that a film may have had.
const EXTENSIONS_MAX: u32 = 6;
/// Length of an extended film.
const EXTENDED_SECONDS_MAX: u32 = 120;
/// Seconds that a shot looks back at where the request does not say.
const CONTEXT_SECONDS: f64 = 1.0;
/// Longest look back.
const CONTEXT_SECONDS_MAX: f64 = 60.0;

/// What is given, with the film's own clock.
#[derive(Debug)]
pub(super) struct GivenWish<'a> {
    stills: Vec<GivenStill<'a>>,
    strength: f32,
    film: Option<&'a Source>,
    sound: Option<&'a Source>,
    retake: Option<Retake>,
    renoise: Option<f32>,
    pub before: Option<&'a Continuation>,
    fit: Fit,
    frames: u32,
    fps: u32,
}

#[derive(Debug)]
struct GivenStill<'a> {
    frame: u32,
    param: String,
    reference: &'a Reference,
}

/// A part of the order that is stored under its digest before the job is submitted.
pub(super) struct Cuts {
    pub files: Vec<Upload>,
    /// One for each shot.
    pub given: Vec<GivenSpec>,
}

/// Frames that a shot looks back at: a whole number of latents.
pub(super) fn context_frames(request: &VideoRequest, clip: Clip) -> Result<u32, Refusal> {
    let (fps, step, most) = (clip.fps, clip.frames_step, clip.frames_max);
    let seconds = request.context_seconds.unwrap_or(CONTEXT_SECONDS);
    if !(0.0..=CONTEXT_SECONDS_MAX).contains(&seconds) {
        return Err(Refusal::wrong_value(
            "context_seconds",
            format!("it is 0 to {CONTEXT_SECONDS_MAX}"),
        ));
    }
    let frames = (seconds * f64::from(fps)).round() as u32 / step * step + 1;
    // At least as much must be new as is looked at.
    if frames > most / 2 {
        let longest = f64::from(most / 2) / f64::from(fps);
        return Err(Refusal::wrong_value(
            "context_seconds",
            format!("it is too long for this model: at most {longest:.1} seconds"),
        ));
    }
    Ok(frames)
}

/// Checks everything that is given of a film of `frames`.
pub(super) fn check<'a>(
    request: &'a VideoRequest,
    frames: u32,
    fps: u32,
) -> Result<GivenWish<'a>, Refusal> {
    check_together(request)?;
    let mut wish = GivenWish {
        stills: Vec::new(),
        strength: share("reference_strength", request.reference_strength)?.unwrap_or(1.0),
        film: request.video_reference.as_ref(),
        sound: request.audio_reference.as_ref(),
        retake: request.retake,
        renoise: renoise(request)?,
        before: request.continues.as_ref(),
        fit: match request.reference_fit {
            ReferenceFit::Contain => Fit::Contain,
            ReferenceFit::Exact | ReferenceFit::Cover => Fit::Cover,
        },
        frames,
        fps,
    };
    if wish.retake.is_some() || wish.renoise.is_some() {
        wish.sound = wish.sound.or(wish.film);
    }
    add_stills(&mut wish, request)?;
    check_retake(&wish)?;
    check_length(request)?;
    Ok(wish)
}

fn check_together(request: &VideoRequest) -> Result<(), Refusal> {
    let wrong = |param: &str, why: &str| Err(Refusal::wrong_value(param, why));
    let pictures = request.last_reference.is_some()
        || !request.keyframes.is_empty()
        || request.input_reference.is_some();
    let film = request.video_reference.is_some();
    let anew = request.retake.is_some() || request.strength.is_some();
    if film && pictures {
        return wrong(
            "video_reference",
            "a given film already has its pictures; leave the images out",
        );
    }
    if film && request.audio_reference.is_some() && !anew {
        return wrong(
            "audio_reference",
            "a given film and a given sound leave nothing to make: add 'retake', or leave one out",
        );
    }
    if anew && !film {
        let param = if request.retake.is_some() {
            "retake"
        } else {
            "strength"
        };
        return wrong(param, "it needs a film that is given");
    }
    let joined = request.continues.is_some() || request.shots.iter().any(|shot| shot.continues);
    if joined && (film || request.audio_reference.is_some()) {
        return wrong(
            "video_reference",
            "a film that goes on from another has its picture and sound from there; leave them out",
        );
    }
    if request.continues.is_some() && request.input_reference.is_some() {
        return wrong(
            "input_reference",
            "an extension begins with the end of its film; leave it out",
        );
    }
    Ok(())
}

fn share(param: &str, value: Option<f64>) -> Result<Option<f32>, Refusal> {
    match value {
        Some(share) if !(share > 0.0 && share <= 1.0) => {
            Err(Refusal::wrong_value(param, "it is above 0 and at most 1"))
        }
        share => Ok(share.map(|share| share as f32)),
    }
}

/// At 1 everything is noise: that is making anew.
fn renoise(request: &VideoRequest) -> Result<Option<f32>, Refusal> {
    Ok(share("strength", request.strength)?.map(|share| share.min(0.999)))
}

fn add_stills<'a>(wish: &mut GivenWish<'a>, request: &'a VideoRequest) -> Result<(), Refusal> {
    let (frames, fps) = (wish.frames, f64::from(wish.fps));
    for (place, keyframe) in request.keyframes.iter().enumerate() {
        let param = format!("keyframes[{place}]");
        let at = keyframe.seconds;
        let frame = (at * fps).round();
        if !(at >= 0.0 && frame < f64::from(frames)) {
            let seconds = f64::from(frames) / fps;
            return Err(Refusal::wrong_value(
                &format!("{param}.seconds"),
                format!("{at} s is behind the end of the film, {seconds} s"),
            ));
        }
        wish.stills.push(GivenStill {
            frame: frame as u32,
            param: format!("{param}.input_reference"),
            reference: &keyframe.input_reference,
        });
    }
    if let Some(reference) = &request.last_reference {
        wish.stills.push(GivenStill {
            frame: frames - 1,
            param: "last_reference".into(),
            reference,
        });
    }
    match wish.stills.len() {
        0..STILLS_MAX => Ok(()),
        _ => Err(Refusal::wrong_value(
            "keyframes",
            format!("at most {} pictures can be given", STILLS_MAX - 1),
        )),
    }
}

fn check_retake(wish: &GivenWish<'_>) -> Result<(), Refusal> {
    let Some(Retake { from_s, to_s, .. }) = wish.retake else {
        return Ok(());
    };
    let seconds = f64::from(wish.frames) / f64::from(wish.fps);
    if !(from_s >= 0.0 && from_s < to_s && to_s.is_finite()) {
        return Err(Refusal::wrong_value(
            "retake",
            format!("{from_s} to {to_s} s is no stretch of a film"),
        ));
    }
    if from_s >= seconds {
        return Err(Refusal::wrong_value(
            "retake",
            format!("it begins at {from_s} s, but the film ends at {seconds} s"),
        ));
    }
    Ok(())
}

/// A film is extended so often, and to such a length.
fn check_length(request: &VideoRequest) -> Result<(), Refusal> {
    let Some(before) = &request.continues else {
        return Ok(());
    };
    let refuse = |why: String| Err(Refusal::new(Code::ExtensionLimitExceeded, why).about("video"));
    if before.extensions >= EXTENSIONS_MAX {
        return refuse(format!(
            "This video has been extended {} times; at most {EXTENSIONS_MAX} are allowed.",
            before.extensions
        ));
    }
    let added: u32 = request
        .seconds
        .as_deref()
        .unwrap_or("4")
        .parse()
        .unwrap_or(0);
    let total = before.seconds + added;
    if total > EXTENDED_SECONDS_MAX {
        return refuse(format!(
            "The video would last {total} seconds; at most {EXTENDED_SECONDS_MAX} are allowed."
        ));
    }
    Ok(())
}

/// Cuts what is given to the shots that were planned.
pub(super) fn cut(wish: &Wish<'_>, shots: &[Shot], fit: ReferenceFit) -> Result<Cuts, Refusal> {
    let given = &wish.given;
    let mut cuts = Cuts {
        files: given
            .film
            .into_iter()
            .chain(given.sound)
            .chain(given.before.map(|before| &before.source))
            .filter_map(|source| source.upload.clone())
            .collect(),
        given: vec![GivenSpec::default(); shots.len()],
    };
    let mut start = 0;
    for (shot, spec) in shots.iter().zip(&mut cuts.given) {
        *spec = given.of_shot(wish, shot, start);
        start += shot.film_frames;
    }
    for still in &given.stills {
        let target = Target {
            fit,
            size: wish.size,
            native: wish.native,
            param: &still.param,
        };
        let image = Upload::of(reference::picture(still.reference, target)?);
        let (place, frame) = place(shots, still.frame);
        cuts.given[place].stills.push(StillSpec {
            frame,
            image: image.digest(),
            strength: given.strength,
        });
        cuts.files.push(image);
    }
    Ok(cuts)
}

/// The shot that shows a frame of the film, and which of its own frames that is.
fn place(shots: &[Shot], frame: u32) -> (usize, u32) {
    let mut left = frame;
    for (place, shot) in shots.iter().enumerate() {
        if left < shot.film_frames {
            return (place, left);
        }
        left -= shot.film_frames;
    }
    (shots.len() - 1, left)
}

impl GivenWish<'_> {
    /// The film that comes before the shots.
    pub fn before(&self) -> Option<BeforeSpec> {
        self.before.map(|before| BeforeSpec {
            film: before.source.digest,
            fit: self.fit,
        })
    }

    fn of_shot(&self, wish: &Wish<'_>, shot: &Shot, start: u32) -> GivenSpec {
        let at = Place {
            start,
            shown: shot.film_frames,
            rendered: shot.render_frames,
        };
        let film = self.film.map(|source| FilmSpec {
            part: self.part(source, at, |retake| retake.picture),
            width: wish.size.width,
            height: wish.size.height,
        });
        GivenSpec {
            stills: Vec::new(),
            film,
            sound: self
                .sound
                .map(|source| self.part(source, at, |retake| retake.sound)),
            context: shot.context.map(|context| ContextSpec {
                film: self
                    .before
                    .filter(|_| start == 0)
                    .map(|before| before.source.digest),
                end_frame: context.end_frame,
                frames: context.frames,
            }),
            renoise: self.renoise,
            fit: self.fit,
        }
    }

    fn part(&self, source: &Source, at: Place, of: fn(&Retake) -> bool) -> PartSpec {
        PartSpec {
            file: source.digest,
            start_frame: at.start,
            frames: at.shown,
            film_frames: self.frames,
            remake: self.remake(at, of),
        }
    }

    /// The part of a retake that lies in a shot, on the shot's own clock.
    fn remake(&self, at: Place, of: fn(&Retake) -> bool) -> Option<SpanSpec> {
        let second = |frame: u32| f64::from(frame) / f64::from(self.fps);
        let (start, end) = (second(at.start), second(at.start + at.rendered));
        let whole = Retake {
            from_s: start,
            to_s: end,
            picture: true,
            sound: true,
        };
        let retake = self.retake.or(self.renoise.map(|_| whole)).filter(of)?;
        if retake.from_s >= end || retake.to_s <= start {
            return None;
        }
        Some(SpanSpec {
            from_s: (retake.from_s - start).max(0.0),
            to_s: retake.to_s - start,
        })
    }
}

/// Where a shot lies in the film, in frames.
#[derive(Clone, Copy)]
struct Place {
    start: u32,
    shown: u32,
    rendered: u32,
}
