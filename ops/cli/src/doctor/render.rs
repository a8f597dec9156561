//! `dailies doctor --render`: the same small clip on the processor and on each GPU, side by side.

use agent::{
    Settings, catalogue,
    client::chain,
    device,
    trial::{self, ALLOWED, Distances, Tried},
};
use anyhow::{Result, bail};

/// Prints a line for each device, and what to do about the first that is wrong.
pub fn run(settings: &Settings) -> Result<()> {
    let dir = catalogue::find_builtin()?;
    println!("{}", trial::clip(&dir)?);
    print!("{}", heads());
    let (processor, reference) = trial::on_processor(&dir, settings.engine_threads());
    print!("{}", row(&processor));
    let mut tried = vec![processor];
    let cards = device::count(&settings.cuda_lib_dirs);
    if let Some(mut reference) = reference {
        for ordinal in 0..cards {
            let (card, kept) = trial::on_card(ordinal, &dir, &settings.cuda_lib_dirs, reference);
            print!("{}", row(&card));
            tried.push(card);
            reference = kept;
        }
    }
    if cards == 0
        && let Err(error) = device::card(0, 1, &settings.cuda_lib_dirs)
    {
        println!("no GPU was tried: {}", chain(&error));
    }
    match tried.iter().find_map(|tried| Some((tried, tried.wrong()?))) {
        None => {
            println!("{}", all_right(cards));
            Ok(())
        }
        Some((tried, why)) => bail!("{} must not render: {why}. {}", tried.name, next(tried)),
    }
}

fn all_right(cards: usize) -> &'static str {
    match cards {
        0 => "all right: the processor gives the same bits twice",
        1 => "all right: the GPU shows the processor's film, and the same bits twice",
        _ => "all right: each GPU shows the processor's film, and the same bits twice",
    }
}

/// What to do about a device that is wrong.
fn next(tried: &Tried) -> &'static str {
    match &tried.made {
        Err(_) => {
            "Mend that and try again; until then render on the processor, with the setting device = \"cpu\""
        }
        Ok(made) if made.off.is_none() => {
            "The memory or the processor of this machine is faulty: test its memory before anything is rendered here"
        }
        Ok(_) => {
            "Render on the processor meanwhile, with the setting device = \"cpu\"; 'gpu-check' of this version \
             ('cargo xtask gpu-parcel' makes it) tells which kernel is wrong. If none is, the card is faulty"
        }
    }
}

fn heads() -> String {
    let allowed = |name: &str, allowed: f64| format!("{name} ({allowed:.0e})");
    let Distances {
        latents,
        pictures,
        sound,
    } = ALLOWED;
    format!(
        "{:32} {:>8} {:>10} {:>10}  {:>15} {:>16} {:>13}\n",
        "DEVICE",
        "SECONDS",
        "FORETOLD",
        "SEEN",
        allowed("LATENTS", latents),
        allowed("PICTURES", pictures),
        allowed("SOUND", sound),
    )
}

fn row(tried: &Tried) -> String {
    let name = &tried.name;
    let made = match &tried.made {
        Ok(made) => made,
        Err(why) => return format!("{name:32} WRONG: {why}\n"),
    };
    let mib = |bytes: u64| format!("{:.1} MiB", bytes as f64 / f64::from(1 << 20));
    let off = match made.off {
        Some(off) => [off.latents, off.pictures, off.sound].map(|off| format!("{off:.1e}")),
        None => ["-"; 3].map(str::to_owned),
    };
    let verdict = match tried.wrong() {
        None => "right".into(),
        Some(why) => format!("WRONG: {why}"),
    };
    format!(
        "{name:32} {:>8.2} {:>10} {:>10}  {:>15} {:>16} {:>13}  {verdict}\n",
        made.took.as_secs_f64(),
        mib(made.foretold_bytes),
        made.seen_bytes.map_or("-".into(), mib),
        off[0],
        off[1],
        off[2],
    )
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use agent::trial::Made;
    use expect_test::expect;

    use super::*;

    fn tried(name: &str, off: Option<f64>, repeats: bool) -> Tried {
        let made = Made {
            took: Duration::from_millis(1_234),
            foretold_bytes: 40 << 20,
            seen_bytes: off.map(|_| 39 << 20),
            off: off.map(|off| Distances {
                latents: 1e-2,
                pictures: off,
                sound: 5e-2,
            }),
            repeats,
        };
        Tried {
            name: name.into(),
            made: Ok(made),
        }
    }

    #[test]
    fn each_device_is_a_line_that_says_whether_it_is_right() {
        let all = [
            tried("processor, 2 threads", None, true),
            tried("GPU 0, Card", Some(4e-3), true),
            tried("GPU 1, Card", Some(0.5), true),
            tried("GPU 2, Card", Some(f64::NAN), true),
            tried("GPU 3, Card", Some(4e-3), false),
            Tried {
                name: "GPU 4".into(),
                made: Err("no kernel".into()),
            },
        ];
        let table = heads() + &all.iter().map(row).collect::<String>();
        expect![[r#"
            DEVICE                            SECONDS   FORETOLD       SEEN   LATENTS (3e-2)  PICTURES (3e-2)  SOUND (2e-1)
            processor, 2 threads                 1.23   40.0 MiB          -                -                -             -  right
            GPU 0, Card                          1.23   40.0 MiB   39.0 MiB           1.0e-2           4.0e-3        5.0e-2  right
            GPU 1, Card                          1.23   40.0 MiB   39.0 MiB           1.0e-2           5.0e-1        5.0e-2  WRONG: its pictures are wrong
            GPU 2, Card                          1.23   40.0 MiB   39.0 MiB           1.0e-2              NaN        5.0e-2  WRONG: its pictures are wrong
            GPU 3, Card                          1.23   40.0 MiB   39.0 MiB           1.0e-2           4.0e-3        5.0e-2  WRONG: two runs gave different films
            GPU 4                            WRONG: no kernel
        "#]].assert_eq(&table);
        assert_eq!(
            all.map(|tried| tried.wrong().is_some()),
            [false, false, true, true, true, true]
        );
    }
}
