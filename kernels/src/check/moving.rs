//! Pixel norms, values that change places, the vocoder's filters.

use super::{ACTS, Bench, Case, Outcome, Scale, elementwise_tolerance};
use crate::average::average;
use crate::copy::{self, gather_rows};
use crate::cuda::{Array, Element};
use crate::patchify::{patchify, unpatchify};
use crate::pixel_norm::pixel_norm;
use crate::resample1d::{Fir, downsample1d, upsample1d};
use crate::snake::{self, SnakeWeights};
use crate::space_depth::{self, Write, depth_to_space, space_to_depth};
use crate::to_frames::to_frames;
use crate::upsample_nearest::upsample_nearest;
use crate::{DType, KernelError, Tensor};

pub(super) fn cases(scale: Scale) -> Vec<Case> {
    let mut cases = Vec::new();
    let mut pixels = vec![(1, 1), (9, 3), (17, 48), (5, 130), (9, 512), (2, 2048)];
    if scale == Scale::Model {
        pixels.extend([(8192, 1024), (65_536, 128)]);
    }
    for act in ACTS {
        for (count, channels) in &pixels {
            let (count, channels) = (*count, *channels);
            for silu in [false, true] {
                cases.push(Case::new(
                    "pixel_norm",
                    format!("{act:?} {count}x{channels} silu {silu}"),
                    move |bench| {
                        let x = bench.noise(act, 1, &[count, channels])?;
                        let mut expected = bench.zeros(&[count, channels])?;
                        pixel_norm(bench.cpu, &x, 1e-8, silu, &mut expected)?;
                        let out = bench.poisoned(act, &[count, channels])?;
                        crate::pixel_norm::cuda::pixel_norm(
                            bench.gpu,
                            &bench.put(act, &x)?,
                            1e-8,
                            silu,
                            &out,
                        )?;
                        bench.outcome(&out, &expected, elementwise_tolerance(act))
                    },
                ));
            }
        }
        places(&mut cases, act);
        copies(&mut cases, act);
    }
    cases.push(Case::new("cast", "1003 both ways", casts));
    cases.push(Case::new("snake", "2x90x7", snakes));
    for up in [true, false] {
        cases.push(Case::new("resample1d", format!("up {up}"), move |bench| {
            resample(bench, up)
        }));
    }
    cases
}

fn places(cases: &mut Vec<Case>, act: Element) {
    for strides in [[1, 2, 2], [2, 1, 1], [2, 2, 2]] {
        // Depths of 16 take the kernel for steps of eight channels.
        for (write, copies, depth) in [
            (Write::Set, 1, 5),
            (Write::Add, 2, 5),
            (Write::Set, 1, 16),
            (Write::Add, 2, 16),
        ] {
            let shape = format!("{act:?} {strides:?} {write:?} depth {depth}");
            let [st, sh, sw] = strides;
            let block = st * sh * sw;
            cases.push(Case::new("depth_to_space", &shape, move |bench| {
                let from = [2, 3, 2, 3, depth * block];
                let to = [2, 3 * st - (st - 1), 2 * sh, 3 * sw, depth * copies];
                placed(
                    (bench, act, write),
                    (from, to),
                    |x, out| depth_to_space(bench.cpu, x, strides, write, out),
                    |x, out| space_depth::cuda::depth_to_space(bench.gpu, x, strides, write, out),
                )
            }));
            cases.push(Case::new("space_to_depth", &shape, move |bench| {
                let from = [2, 2 * st - (st - 1), 2 * sh, 3 * sw, 6];
                let to = [2, 2, 2, 3, 6 * block / copies];
                placed(
                    (bench, act, write),
                    (from, to),
                    |x, out| space_to_depth(bench.cpu, x, strides, write, out),
                    |x, out| space_depth::cuda::space_to_depth(bench.gpu, x, strides, write, out),
                )
            }));
        }
    }
    cases.push(Case::new(
        "patchify",
        format!("{act:?} 2x3x8x12x3"),
        move |bench| {
            let (small, large) = ([2, 3, 2, 3, 48], [2, 3, 8, 12, 3]);
            let (x, mut patches) = (bench.noise(act, 1, &large)?, bench.zeros(&small)?);
            patchify(bench.cpu, &x, 4, &mut patches)?;
            let (out, again) = (bench.poisoned(act, &small)?, bench.poisoned(act, &large)?);
            space_depth::cuda::patchify(bench.gpu, &bench.put(act, &x)?, 4, &out)?;
            space_depth::cuda::unpatchify(bench.gpu, &out, 4, &again)?;
            let mut expected = bench.zeros(&large)?;
            unpatchify(bench.cpu, &patches, 4, &mut expected)?;
            let found = [bench.gpu.download(&out)?, bench.gpu.download(&again)?].concat();
            Ok(Outcome {
                found,
                expected: [patches.f32s(), expected.f32s()].concat(),
                tolerance: 0.0,
            })
        },
    ));
    cases.push(Case::new(
        "upsample_nearest",
        format!("{act:?} 2x3x5x7"),
        move |bench| {
            let (x, mut expected) = (
                bench.noise(act, 1, &[2, 3, 5, 7])?,
                bench.zeros(&[2, 6, 10, 7])?,
            );
            upsample_nearest(bench.cpu, &x, &mut expected)?;
            let out = bench.poisoned(act, &[2, 6, 10, 7])?;
            space_depth::cuda::upsample_nearest(bench.gpu, &bench.put(act, &x)?, &out)?;
            bench.outcome(&out, &expected, 0.0)
        },
    ));
}

/// Values that change places, into or onto what is there: copies are exact.
fn placed(
    (bench, act, write): (&Bench<'_>, Element, Write),
    (from, to): ([usize; 5], [usize; 5]),
    on_cpu: impl Fn(&Tensor, &mut Tensor) -> Result<(), KernelError>,
    on_card: impl Fn(&Array, &Array) -> Result<(), KernelError>,
) -> Result<Outcome, KernelError> {
    let (x, mut expected) = (bench.noise(act, 1, &from)?, bench.noise(act, 2, &to)?);
    let out = bench.put(act, &expected)?;
    on_cpu(&x, &mut expected)?;
    on_card(&bench.put(act, &x)?, &out)?;
    let tolerance = match write {
        Write::Set => 0.0,
        Write::Add => elementwise_tolerance(act),
    };
    bench.outcome(&out, &expected, tolerance)
}

fn copies(cases: &mut Vec<Case>, act: Element) {
    cases.push(Case::new(
        "gather_rows",
        format!("{act:?} 5 of 9x37"),
        move |bench| {
            let (table, ids) = (bench.noise(act, 1, &[9, 37])?, vec![3, 8, 0, 3, 5]);
            let mut expected = bench.zeros(&[5, 37])?;
            let out = bench.poisoned(act, &[5, 37])?;
            copy::cuda::gather_rows(
                bench.gpu,
                &bench.put(act, &table)?,
                &bench.gpu.upload_ids(&ids)?,
                2.0,
                &out,
            )?;
            gather_rows(
                bench.cpu,
                &table,
                &Tensor::from_u32(bench.cpu, &[5], ids)?,
                2.0,
                &mut expected,
            )?;
            bench.outcome(&out, &expected, elementwise_tolerance(act))
        },
    ));
    cases.push(Case::new(
        "average",
        format!("{act:?} 3 of 101"),
        move |bench| {
            let x = bench.noise(act, 1, &[3, 101])?;
            let parts: Result<Vec<_>, _> = x
                .f32s()
                .chunks(101)
                .map(|part| Tensor::from_f32(bench.cpu, &[101], part.to_vec()))
                .collect();
            let mut expected = bench.zeros(&[101])?;
            average(bench.cpu, &parts?, &mut expected)?;
            let out = bench.poisoned(act, &[101])?;
            copy::cuda::average(bench.gpu, &bench.put(act, &x)?, &out)?;
            bench.outcome(&out, &expected, elementwise_tolerance(act))
        },
    ));
    cases.push(Case::new(
        "random_fill",
        format!("{act:?} 1003"),
        move |bench| {
            let value = |index| copy::cuda::random_value(index, 9, 0.5);
            let out = bench.poisoned(act, &[1003])?;
            copy::cuda::random_fill(bench.gpu, &out, 9, 0.5)?;
            let expected = Tensor::from_f32(bench.cpu, &[1003], (0..1003).map(value).collect())?;
            bench.outcome(&out, &expected, elementwise_tolerance(act))
        },
    ));
    cases.push(Case::new(
        "to_frames",
        format!("{act:?} 1003"),
        move |bench| {
            let mut x = bench.noise(act, 1, &[1003])?;
            x.f32s_mut()[..3].copy_from_slice(&[-3.0, f32::NAN, f32::INFINITY]);
            let mut expected = Tensor::zeros(bench.cpu, DType::U8, &[1003])?;
            to_frames(bench.cpu, &x, &mut expected)?;
            let out = bench.poisoned(Element::U8, &[1003])?;
            copy::cuda::to_frames(bench.gpu, &bench.put(act, &x)?, &out)?;
            bench.outcome(&out, &expected, 0.0)
        },
    ));
}

fn casts(bench: &Bench<'_>) -> Result<Outcome, KernelError> {
    let x = bench.noise(Element::F32, 1, &[1003])?;
    let (small, large) = (
        bench.poisoned(Element::BF16, &[1003])?,
        bench.poisoned(Element::F32, &[1003])?,
    );
    copy::cuda::cast(bench.gpu, &bench.put(Element::F32, &x)?, &small)?;
    copy::cuda::cast(bench.gpu, &small, &large)?;
    bench.outcome(&large, &bench.noise(Element::BF16, 1, &[1003])?, 0.0)
}

fn snakes(bench: &Bench<'_>) -> Result<Outcome, KernelError> {
    let (alpha, beta) = (
        bench.noise(Element::F32, 1, &[7])?,
        bench.noise(Element::F32, 2, &[7])?,
    );
    let weights = SnakeWeights::new(bench.cpu, &alpha, Some(&beta))?;
    let mut x = bench.noise(Element::F32, 3, &[2, 90, 7])?;
    // Sines of large arguments as well.
    x.f32s_mut()
        .iter_mut()
        .step_by(3)
        .for_each(|value| *value *= 500.0);
    let array = bench.put(Element::F32, &x)?;
    snake::snake(bench.cpu, &weights, &mut x)?;
    let weights = snake::cuda::DeviceSnake::upload(bench.gpu, &weights)?;
    snake::cuda::snake(bench.gpu, &weights, &array)?;
    bench.outcome(&array, &x, 1e-5)
}

fn resample(bench: &Bench<'_>, up: bool) -> Result<Outcome, KernelError> {
    let taps = bench.noise(Element::F32, 1, &[13])?;
    let fir = Fir {
        taps: taps.f32s().to_vec(),
        ratio: 3,
        left: 5,
    };
    let (from, to) = if up { (11, 33) } else { (33, 11) };
    let (x, mut expected) = (
        bench.noise(Element::F32, 2, &[2, from, 5])?,
        bench.zeros(&[2, to, 5])?,
    );
    let (a, t, out) = (
        bench.put(Element::F32, &x)?,
        bench.put(Element::F32, &taps)?,
        bench.poisoned(Element::F32, &[2, to, 5])?,
    );
    if up {
        upsample1d(bench.cpu, &x, &fir, &mut expected)?;
        snake::cuda::upsample1d(bench.gpu, &a, &fir, &t, &out)?;
    } else {
        downsample1d(bench.cpu, &x, &fir, &mut expected)?;
        snake::cuda::downsample1d(bench.gpu, &a, &fir, &t, &out)?;
    }
    bench.outcome(&out, &expected, 1e-5)
}
