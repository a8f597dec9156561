//! What is said of devices that were tried: of one that renders right, of a card that computes nothing, of one that is
//! lost. `diffusion/tests/card.rs` holds a card that computes, on the emulator, to the same distances.

use std::sync::Arc;

use agent::{
    catalogue::find_builtin,
    trial::{Film, Tried, beside, on_card, on_processor},
};
use kernels::{
    Device,
    cuda::{Fault, Faulty, Gpu, Nowhere},
};

fn processor() -> Film {
    let (tried, film) = on_processor(&find_builtin().unwrap(), 2);
    assert_eq!(tried.wrong(), None);
    let made = tried.made.unwrap();
    assert!(made.off.is_none() && made.foretold_bytes > 1 << 20);
    film.unwrap()
}

#[test]
fn a_device_that_renders_right_is_told_from_one_that_does_not_and_from_one_that_is_lost() {
    let (dir, reference) = (find_builtin().unwrap(), processor());
    let tried = |device: &Device| Tried {
        name: "device".into(),
        made: beside(device, &dir, &reference),
    };
    let right = tried(&Device::cpu(1).unwrap());
    assert_eq!(right.wrong(), None, "{right:?}");
    let off = right.made.unwrap().off.unwrap();
    assert_eq!((off.latents, off.pictures, off.sound), (0.0, 0.0, 0.0));

    let machine = Arc::new(Faulty::new(Arc::new(Nowhere::new((8, 0)))));
    let card = Device::cuda(Gpu::new(machine.clone()), 1).unwrap();
    let idle = tried(&card);
    assert_eq!(idle.wrong().as_deref(), Some("its latents are wrong"));
    let made = idle.made.unwrap();
    assert!(made.repeats, "nothing is always the same");
    let seen = made.seen_bytes.unwrap() as f64 / made.foretold_bytes as f64;
    assert!((0.85..1.15).contains(&seen), "{seen} of what was foretold");

    machine.arm(100, Fault::Lost);
    let lost = tried(&card).wrong().unwrap();
    assert!(lost.contains("CUDA_ERROR_LAUNCH_FAILED"), "{lost}");
}

#[test]
fn a_card_that_cannot_be_opened_says_why_and_the_next_one_is_tried_with_the_same_film() {
    // No machine has as many.
    let (tried, kept) = on_card(999, &find_builtin().unwrap(), &[], processor());
    let why = tried.wrong().unwrap();
    assert!(tried.name == "GPU 999" && why.contains(' '), "{why}");
    let (tried, _) = on_card(999, &find_builtin().unwrap(), &[], kept);
    assert_eq!(tried.wrong(), Some(why));
}
