//! A device with a card gives what the CPU gives, through the same ops. The card is the emulator.

mod tools;

use std::sync::Arc;

use kernels::attention::{Heads, Mask, attention};
use kernels::check::relative_distance;
use kernels::conv::{ConvWeights, Prologue, SpacePad};
use kernels::conv1d::{Conv1dOptions, conv1d};
use kernels::conv2d::{Conv2dOptions, conv2d};
use kernels::conv3d::{Conv3dOptions, TimePad, conv3d};
use kernels::cuda::{Emulator, EmulatorError, Gpu, MODULES, emulation};
use kernels::linear::{Epilogue, LinearWeights, linear};
use kernels::modulation::Rows;
use kernels::sampling::axpby;
use kernels::{Device, KernelError, Repeat, Tensor};

fn devices() -> Option<[Device; 2]> {
    let folder = tools::cache()?;
    // A card that is no Hopper: the other tests have that path.
    let emulator = match Emulator::start(&folder, &emulation(MODULES), (8, 0)) {
        Ok(emulator) => emulator,
        Err(EmulatorError::NoCompiler) => return None,
        Err(error) => panic!("{error}"),
    };
    let card = Device::cuda(Gpu::new(Arc::new(emulator)), 1).unwrap();
    Some([Device::cpu(1).unwrap(), card])
}

fn noise(seed: usize, dims: &[usize]) -> Tensor {
    let count: usize = dims.iter().product();
    let values = (0..count).map(|i| ((i + 1) * (7919 + 2 * seed) % 2003) as f32 / 1001.5 - 1.0);
    Tensor::from_f32(&Device::cpu(1).unwrap(), dims, values.collect()).unwrap()
}

/// A tensor of the processor on a device.
fn put(device: &Device, tensor: &Tensor) -> Tensor {
    tensor.clone().to_device(device).unwrap()
}

/// Runs an op on both devices into outputs that begin alike, and compares.
fn compare(
    devices: &[Device; 2],
    start: &Tensor,
    tolerance: f64,
    op: impl Fn(&Device, &mut Tensor) -> Result<(), KernelError>,
) {
    let [cpu, card] = devices.each_ref().map(|device| {
        let before = device.flop();
        let mut out = start.clone().to_device(device).unwrap();
        op(device, &mut out).unwrap();
        assert!(device.flop() > before, "work is counted on every device");
        out
    });
    let distance = relative_distance(&card.values().unwrap(), &cpu.values().unwrap());
    assert!(
        distance <= tolerance && distance > 0.0,
        "off by {distance:e}: 0 would mean that the card did nothing"
    );
}

#[test]
fn products_and_attention_run_on_the_card() {
    let Some(devices) = devices() else {
        return tools::skipped("no C++ compiler");
    };
    let (m, n, k) = (131, 34, 70);
    let (x, w, bias, start) = (
        noise(1, &[m, k]),
        noise(2, &[n, k]),
        noise(3, &[n]),
        noise(4, &[m, n]),
    );
    let (table, half) = (noise(5, &[2, 3, n]), noise(6, &[m, n / 2]));
    let ids = (0..m as u32).map(|row| row % 2).collect();
    let groups = Tensor::from_u32(&devices[0], &[m], ids).unwrap();
    for epilogue in [
        Epilogue::None,
        Epilogue::GeluTanh,
        Epilogue::Silu,
        Epilogue::Residual,
    ] {
        compare(&devices, &start, 5e-3, |device, y| {
            let w = LinearWeights::new(device, &w)?;
            assert_eq!([w.outputs(), w.inputs()], [n, k]);
            linear(
                device,
                &put(device, &x),
                &w,
                Some(&put(device, &bias)),
                epilogue,
                y,
            )
        });
    }
    compare(&devices, &start, 5e-3, |device, y| {
        let (table, groups) = (put(device, &table), put(device, &groups));
        let gate = Epilogue::GatedResidual(Rows {
            table: &table,
            slot: 1,
            groups: Some(&groups),
        });
        let w = LinearWeights::new(device, &w)?;
        linear(
            device,
            &put(device, &x),
            &w,
            Some(&put(device, &bias)),
            gate,
            y,
        )
    });
    compare(&devices, &half, 5e-3, |device, y| {
        let w = LinearWeights::pair(device, &w)?;
        linear(device, &put(device, &x), &w, None, Epilogue::GegluTanh, y)
    });
    let heads = Heads {
        query: 2,
        key: 1,
        scale: 0.3,
    };
    let (q, kv) = (noise(1, &[70, 48]), noise(2, &[70, 24]));
    let additive = Tensor::from_f32(
        &devices[0],
        &[70],
        (0..70)
            .map(|i| if i % 3 == 0 { -1e4 } else { 0.0 })
            .collect(),
    )
    .unwrap();
    for mask in [
        Mask::None,
        Mask::Keys(9),
        Mask::Additive(&additive),
        Mask::Causal {
            first: 3,
            window: Some(20),
        },
    ] {
        compare(&devices, &noise(3, &[70, 48]), 8e-3, |device, o| {
            let (q, kv) = (put(device, &q), put(device, &kv));
            let additive = put(device, &additive);
            let mask = match mask {
                Mask::Additive(_) => Mask::Additive(&additive),
                mask => mask,
            };
            attention(device, &q, &kv, &kv, heads, mask, o)
        });
    }
}

#[test]
fn convolutions_run_on_the_card_with_what_comes_before_them() {
    let Some(devices) = devices() else {
        return tools::skipped("no C++ compiler");
    };
    let (x, weight, bias) = (
        noise(1, &[1, 4, 5, 6, 8]),
        noise(2, &[7, 8, 3, 3, 3]),
        noise(3, &[7]),
    );
    for (time, frames) in [
        (TimePad::Causal, 4),
        (TimePad::Copies, 4),
        (TimePad::Given, 2),
    ] {
        let options = Conv3dOptions {
            time,
            space: SpacePad::Reflect,
            prologue: Prologue::PixelNormSilu { eps: 1e-8 },
        };
        let dims = [1, frames, 5, 6, 7];
        let residual = noise(4, &dims);
        compare(&devices, &noise(5, &dims), 5e-3, |device, out| {
            let weights = ConvWeights::new(device, &weight, Some(&bias))?;
            let (x, residual) = (put(device, &x), put(device, &residual));
            conv3d(device, &x, &weights, options, Some(&residual), out)
        });
    }
    let leaky = Prologue::Leaky { slope: 0.1 };
    let options = Conv2dOptions {
        top: 2,
        bottom: 0,
        left: 1,
        right: 1,
        stride: 2,
        prologue: leaky,
    };
    compare(&devices, &noise(5, &[2, 4, 5, 7]), 5e-3, |device, out| {
        let weights = ConvWeights::new(device, &noise(2, &[7, 8, 3, 3]), None)?;
        conv2d(
            device,
            &put(device, &noise(1, &[2, 8, 10, 8])),
            &weights,
            options,
            None,
            out,
        )
    });
    let options = Conv1dOptions {
        dilation: 3,
        prologue: leaky,
    };
    compare(&devices, &noise(5, &[2, 40, 7]), 5e-3, |device, out| {
        let weights = ConvWeights::new(device, &noise(2, &[7, 8, 5]), None)?;
        conv1d(
            device,
            &put(device, &noise(1, &[2, 40, 8])),
            &weights,
            options,
            None,
            out,
        )
    });
}

#[test]
fn repeated_work_is_recorded_once_and_reads_what_has_changed() {
    let Some([cpu, card]) = devices() else {
        return tools::skipped("no C++ compiler");
    };
    let weight = noise(1, &[16, 16]);
    let found = [&cpu, &card].map(|device| {
        let (mut repeat, mut calls) = (Repeat::new(device), 0);
        let weight = LinearWeights::new(device, &weight).unwrap();
        let mut x = put(device, &noise(2, &[4, 16]));
        let mut sum = Tensor::zeros_f32(device, &[4, 16]).unwrap();
        let before = device.flop();
        for run in 0..4u8 {
            let values: Vec<f32> = (0..64).map(|at| f32::from(at * run) / 64.0).collect();
            x.overwrite(device, &values).unwrap();
            repeat
                .run(|device| {
                    calls += 1;
                    let mut y = Tensor::activations(device, &[4, 16])?;
                    linear(device, &x, &weight, None, Epilogue::Silu, &mut y)?;
                    axpby(device, 0.5, &mut sum, 1.0, &y)
                })
                .unwrap();
        }
        let is_card = matches!(device, Device::Cuda(_));
        assert_eq!(repeat.is_recorded(), is_card);
        assert_eq!(
            calls,
            if is_card { 2 } else { 4 },
            "the third run starts the record"
        );
        assert_eq!(device.flop() - before, 4 * 2 * 4 * 16 * 16);
        sum.values().unwrap().into_owned()
    });
    assert!(relative_distance(&found[1], &found[0]) < 1e-2);
}

#[test]
fn work_that_looks_at_values_is_repeated_without_a_record() {
    let Some([_, card]) = devices() else {
        return tools::skipped("no C++ compiler");
    };
    let (x, mut repeat, mut calls) = (put(&card, &noise(1, &[8])), Repeat::new(&card), 0);
    for _ in 0..3 {
        let work = |_: &Device| {
            calls += 1;
            x.values().map(|_| ())
        };
        repeat.run(work).unwrap();
    }
    assert!(!repeat.is_recorded());
    assert_eq!(calls, 4, "one of them found that it cannot be recorded");
}

#[test]
fn a_run_that_does_not_fit_is_refused_and_the_card_goes_on() {
    let Some([_, card]) = devices() else {
        return tools::skipped("no C++ compiler");
    };
    for _ in 0..2 {
        let refused = card.reserve(1 << 60);
        assert!(
            matches!(refused, Err(KernelError::OutOfMemory { .. })),
            "{refused:?}"
        );
        let refused = Tensor::zeros_f32(&card, &[1 << 40, 1 << 10]);
        assert!(matches!(refused, Err(KernelError::OutOfMemory { .. })));
        let kept = Tensor::zeros_f32(&card, &[3]).unwrap();
        assert_eq!(kept.values().unwrap()[..], [0.0; 3]);
    }
}

#[test]
fn what_tensors_of_a_card_have_at_most_is_seen_and_what_is_only_reserved_is_not() {
    let Some([cpu, card]) = devices() else {
        return tools::skipped("no C++ compiler");
    };
    assert!(cpu.watch_memory().is_none() && cpu.card_bytes().is_none());
    let before = Tensor::zeros_f32(&card, &[1 << 10]).unwrap();
    let watch = card.watch_memory().unwrap();
    card.reserve(64 << 20).unwrap();
    assert_eq!(watch.grown_bytes(), 0);
    let first = Tensor::zeros_f32(&card, &[1 << 18]).unwrap();
    drop(before);
    drop(Tensor::zeros_f32(&card, &[1 << 16]).unwrap());
    assert_eq!(watch.grown_bytes(), (1 << 20) + (1 << 18) - (1 << 12));
    drop(first);
    let mut repeat = Repeat::new(&card);
    let within = card.watch_memory().unwrap();
    let work = |device: &Device| Tensor::zeros_f32(device, &[1 << 12]).map(drop);
    repeat.run(work).unwrap();
    assert_eq!(
        within.grown_bytes(),
        1 << 14,
        "a pool in the pool counts once"
    );
}

#[test]
fn weights_of_a_card_are_refused_by_the_cpu() {
    let Some([cpu, card]) = devices() else {
        return tools::skipped("no C++ compiler");
    };
    let weights = LinearWeights::new(&card, &noise(1, &[4, 8])).unwrap();
    let mut y = noise(2, &[3, 4]);
    let refused = linear(
        &cpu,
        &noise(3, &[3, 8]),
        &weights,
        None,
        Epilogue::None,
        &mut y,
    );
    assert!(matches!(refused, Err(KernelError::DeviceMismatch { .. })));
    assert!(
        card.class().starts_with("cuda-emulator-8.0-cpu-"),
        "{}",
        card.class()
    );
    assert_ne!(card.class(), cpu.class());
}
