//! Options of `dailies render` alone: how the film is guided, in how many stages it is made.

use std::path::PathBuf;

use clap::Args;
use diffusion::{GuidanceChanges, Refine, Shift, guidance::StreamChanges};

/// Whether the film goes on from another.
#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "What is given")]
pub struct ContinueArgs {
    /// Film to go on from: its end, picture and sound, is where the new film begins. The result is
    /// that film and --seconds more.
    #[arg(long = "continue", value_name = "FILE", conflicts_with_all = ["image", "audio", "video"])]
    pub continue_from: Option<PathBuf>,
    /// Seconds of the film before that --continue looks at.
    #[arg(
        long,
        value_name = "SECONDS",
        default_value_t = 1.0,
        requires = "continue_from"
    )]
    pub context: f64,
}

/// Guidance and noise levels that differ from what the model recommends.
#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "Guidance, for picture and sound apart")]
pub struct TuneArgs {
    /// How closely the sound follows the prompt [default: --guidance, or the model's]
    #[arg(long, value_name = "SCALE")]
    audio_guidance: Option<f32>,
    /// Away from a picture whose self-attention is skipped (STG) [default: the model's; 0 is off]
    #[arg(long, value_name = "WEIGHT")]
    stg: Option<f32>,
    /// The same for the sound.
    #[arg(long, value_name = "WEIGHT")]
    audio_stg: Option<f32>,
    /// Blocks that STG skips, such as 28 or 1,2 [default: the model's]
    #[arg(long, value_name = "BLOCKS", value_delimiter = ',')]
    stg_blocks: Vec<u32>,
    /// How much the picture heeds the sound [default: the model's; 1 is off]
    #[arg(long, value_name = "WEIGHT")]
    modality: Option<f32>,
    /// How much the sound heeds the picture.
    #[arg(long, value_name = "WEIGHT")]
    audio_modality: Option<f32>,
    /// How far guidance may not change the picture's contrast, 0 to 1 [default: the model's]
    #[arg(long, value_name = "SHARE")]
    rescale: Option<f32>,
    /// The same for the sound.
    #[arg(long, value_name = "SHARE")]
    audio_rescale: Option<f32>,
    /// Size that noise levels are shifted for: the film's own, or 4096 tokens as the makers of
    /// LTX-2 do. Models with a fixed list of levels do not heed it.
    #[arg(long, value_name = "HOW", default_value = "actual", value_parser = ["actual", "fixed4096"])]
    shift: String,
}

impl TuneArgs {
    /// On top of one scale for both streams.
    pub fn changes(&self, scale: Option<f32>) -> GuidanceChanges {
        GuidanceChanges {
            video: StreamChanges {
                scale,
                perturbed: self.stg,
                modality: self.modality,
                rescale: self.rescale,
            },
            audio: StreamChanges {
                scale: self.audio_guidance.or(scale),
                perturbed: self.audio_stg,
                modality: self.audio_modality,
                rescale: self.audio_rescale,
            },
            perturbed_blocks: Some(self.stg_blocks.clone()).filter(|blocks| !blocks.is_empty()),
        }
    }

    pub fn shift(&self) -> Shift {
        match self.shift.as_str() {
            "fixed4096" => Shift::Fixed4096,
            _ => Shift::Actual,
        }
    }
}

/// How far pictures look.
#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "Long films")]
pub struct ReachArgs {
    /// Let pictures see only what is at most so many seconds before and after them, and the first and given
    /// ones; sound still hears all. The model was not trained so: the film becomes another, less consistent
    /// over time. It pays from several times that length and tens of thousands of tokens on, where attention
    /// is most of the work (a minute at small sizes, or ten seconds at 1280x704) [default: all of the film]
    #[arg(long, value_name = "SECONDS")]
    pub attention_window: Option<f32>,
}

/// Whether the film is made in two stages.
#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "Two stages")]
pub struct StageArgs {
    /// Make the film at half the size first and refine it at full size in three steps. Needs weights
    /// with a latent_upsampler folder.
    #[arg(long)]
    two_stage: bool,
    /// Folder whose transformer refines, such as a distilled model [default: that of --weights]
    #[arg(long, value_name = "DIR", requires = "two_stage")]
    pub refiner: Option<PathBuf>,
    /// How far the refined film keeps colours of the small one, 0 to 1.
    #[arg(
        long,
        value_name = "SHARE",
        default_value_t = 0.0,
        requires = "two_stage"
    )]
    adain: f32,
    /// How much extremes of the small film are brought down, 0 to 1.
    #[arg(
        long,
        value_name = "SHARE",
        default_value_t = 0.0,
        requires = "two_stage"
    )]
    tone_map: f32,
}

impl StageArgs {
    pub fn refine(&self) -> Option<Refine> {
        self.two_stage.then_some(Refine {
            adain: self.adain,
            tone_map: self.tone_map,
        })
    }
}
