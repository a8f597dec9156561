//! Where tokens lie in time and space, and the rotary tables made from that.

use kernels::KernelError;
use kernels::attention::{BlockList, Mask};
use kernels::rope::{Axis, RopeTable, rope_table};

use super::config::{RopeConfig, TransformerConfig};
use crate::latent::Grid;

/// Coordinates of tokens: midpoints of what each covers.
struct Coordinates {
    time: Vec<f32>,
    rows: Vec<f32>,
    columns: Vec<f32>,
}

/// Rotary tables of one clip.
#[derive(Debug)]
pub struct Positions {
    /// Video self-attention: time, rows and columns.
    pub video: RopeTable,
    /// Audio self-attention: time.
    pub audio: RopeTable,
    /// Video side of the cross-stream attention: time.
    pub video_cross: RopeTable,
    /// Audio side of the cross-stream attention: time.
    pub audio_cross: RopeTable,
    /// What video tokens see of each other; absent: all.
    pub window: Option<BlockList>,
}

impl Positions {
    /// Tables for a grid of latents, and behind it the tokens of one picture for each of `stills`,
    /// frames of the clip.
    ///
    /// # Errors
    /// [`KernelError::Unsupported`] for widths that have no table.
    pub fn new(
        config: &TransformerConfig,
        grid: &Grid,
        stills: &[u32],
    ) -> Result<Self, KernelError> {
        let rope = &config.rope;
        let mut video = video_coordinates(rope, grid);
        for still in stills {
            video.append(still_coordinates(rope, grid, *still));
        }
        let seconds = audio_coordinates(rope, grid.audio);
        let cross_max = rope.video_max[0].max(rope.audio_max);
        let cross = config.audio.width();
        let space = [&video.time, &video.rows, &video.columns];
        let axes: Vec<Axis<'_>> = space
            .iter()
            .zip(rope.video_max)
            .map(|(positions, max)| Axis {
                positions: positions.as_slice(),
                max,
            })
            .collect();
        let time =
            |positions, max, width| rope_table(&[Axis { positions, max }], rope.theta, width);
        Ok(Self {
            video: rope_table(&axes, rope.theta, config.video.width())?,
            audio: time(&seconds, rope.audio_max, config.audio.width())?,
            video_cross: time(&video.time, cross_max, cross)?,
            audio_cross: time(&seconds, cross_max, cross)?,
            window: None,
        })
    }

    /// What a video token may see of the others.
    pub fn video_mask(&self) -> Mask<'_> {
        self.window.as_ref().map_or(Mask::None, Mask::Blocks)
    }
}

impl Coordinates {
    const NONE: Self = Self {
        time: Vec::new(),
        rows: Vec::new(),
        columns: Vec::new(),
    };

    fn append(&mut self, other: Self) {
        self.time.extend(other.time);
        self.rows.extend(other.rows);
        self.columns.extend(other.columns);
    }

    /// The tokens of one latent frame around a second, in (row, column) order.
    fn add_frame(&mut self, rope: &RopeConfig, grid: &Grid, second: f32) {
        let middle = |scale: usize, index: usize| {
            ((scale * index) as f32 + (scale * (index + 1)) as f32) / 2.0
        };
        let [_, height, width] = grid.video;
        let [_, row_scale, column_scale] = rope.video_scale;
        for row in 0..height {
            for column in 0..width {
                self.time.push(second);
                self.rows.push(middle(row_scale, row));
                self.columns.push(middle(column_scale, column));
            }
        }
    }
}

/// A picture covers one frame: [frame, frame + 1), in seconds.
fn still_coordinates(rope: &RopeConfig, grid: &Grid, frame: u32) -> Coordinates {
    let second = |frame: u32| frame as f32 / grid.fps;
    let mut found = Coordinates::NONE;
    found.add_frame(rope, grid, (second(frame) + second(frame + 1)) / 2.0);
    found
}

/// Latent i covers frames `max(scale i + offset - scale, 0)` to the same of i + 1, in seconds; rows
/// and columns begin at `scale` times their index.
fn video_coordinates(rope: &RopeConfig, grid: &Grid) -> Coordinates {
    let time_scale = rope.video_scale[0];
    let second = |index: usize| {
        let frame = (time_scale * index + rope.causal_offset).saturating_sub(time_scale);
        frame as f32 / grid.fps
    };
    let mut found = Coordinates::NONE;
    for frame in 0..grid.video[0] {
        found.add_frame(rope, grid, (second(frame) + second(frame + 1)) / 2.0);
    }
    found
}

/// Seconds of each audio token, by the mel frames that it covers.
fn audio_coordinates(rope: &RopeConfig, tokens: usize) -> Vec<f32> {
    let scale = rope.audio_scale;
    let second = |index: usize| {
        let mel = (scale * index + rope.causal_offset).saturating_sub(scale);
        mel as f32 * rope.audio_hop as f32 / rope.audio_rate as f32
    };
    (0..tokens)
        .map(|token| (second(token) + second(token + 1)) / 2.0)
        .collect()
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;
    use crate::golden::Golden;
    use kernels::rope::Layout;

    fn config() -> RopeConfig {
        RopeConfig {
            layout: Layout::Split,
            theta: 1e4,
            video_scale: [8, 32, 32],
            video_max: [20.0, 2048.0, 2048.0],
            audio_scale: 4,
            audio_max: 20.0,
            audio_hop: 160,
            audio_rate: 16_000,
            causal_offset: 1,
        }
    }

    fn arguments(golden: &Golden, case: &str) -> Value {
        serde_json::from_str(golden.note(&format!("args.{case}"))).unwrap()
    }

    fn number(value: &Value) -> usize {
        value.as_u64().unwrap() as usize
    }

    fn check(golden: &Golden, case: &str, table: &RopeTable, rows: impl Iterator<Item = usize>) {
        let pick = |values: &[f32], rows: &[usize]| -> Vec<f32> {
            let row = |r: &usize| values[r * table.columns()..][..table.columns()].to_vec();
            rows.iter().flat_map(row).collect()
        };
        let rows: Vec<usize> = rows.collect();
        golden.check(&format!("out.{case}.cos"), &pick(table.cos(), &rows), 1e-6);
        golden.check(&format!("out.{case}.sin"), &pick(table.sin(), &rows), 1e-6);
    }

    #[test]
    fn video_tables_equal_the_reference_with_and_without_pads() {
        let golden = Golden::open("rope");
        for (width, kind) in [4096, 256, 192]
            .iter()
            .flat_map(|w| [(w, "split"), (w, "interleaved")])
        {
            let case = format!("video_{width}_{kind}");
            let arguments = arguments(&golden, &case);
            let grid = Grid {
                video: [3, 2, 2],
                audio: 0,
                fps: 24.0,
            };
            let found = video_coordinates(&config(), &grid);
            let axes = [
                Axis {
                    positions: &found.time,
                    max: 20.0,
                },
                Axis {
                    positions: &found.rows,
                    max: 2048.0,
                },
                Axis {
                    positions: &found.columns,
                    max: 2048.0,
                },
            ];
            let table = rope_table(&axes, 1e4, *width).unwrap();
            check(
                &golden,
                &case,
                &table,
                arguments["rows"].as_array().unwrap().iter().map(number),
            );
        }
    }

    #[test]
    fn time_tables_equal_the_reference() {
        let golden = Golden::open("rope");
        let seconds = audio_coordinates(&config(), 7);
        let audio = rope_table(
            &[Axis {
                positions: &seconds,
                max: 20.0,
            }],
            1e4,
            96,
        )
        .unwrap();
        check(&golden, "audio", &audio, 0..7);
        let found = video_coordinates(
            &config(),
            &Grid {
                video: [3, 2, 2],
                audio: 0,
                fps: 16.0,
            },
        );
        let cross = rope_table(
            &[Axis {
                positions: &found.time,
                max: 20.0,
            }],
            1e4,
            96,
        )
        .unwrap();
        check(&golden, "cross", &cross, 0..12);
        let positions: Vec<f32> = (0..9).map(|i| i as f32).collect();
        let line = rope_table(
            &[Axis {
                positions: &positions,
                max: 4096.0,
            }],
            1e4,
            128,
        )
        .unwrap();
        check(&golden, "connector", &line, 0..9);
    }
}
