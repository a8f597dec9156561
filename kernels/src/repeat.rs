//! Work that runs again and again with tensors of the same shapes, as the steps of a sampler do. On a card that
//! can record, the second run is recorded as one graph and later ones only start it: what differs between runs
//! must be read from tensors that stay where they are ([`crate::Tensor::overwrite`]).

use std::sync::atomic::Ordering::Relaxed;

use crate::{Device, KernelError};

/// Work and how often it has run.
#[derive(Debug)]
pub struct Repeat {
    device: Device,
    state: State,
}

#[derive(Debug)]
enum State {
    /// The first run loads kernels and makes what is kept.
    New,
    Warm,
    /// Number of the record, and operations of one run.
    Recorded(u64, u64),
    /// Every run is done by itself: the processor, or work that cannot be recorded.
    Plain,
}

impl Repeat {
    /// Nothing has run. On a card the work's own tensors lie apart from all others as long as this lives.
    pub fn new(device: &Device) -> Self {
        match device {
            Device::Cpu(_) => Self {
                device: device.clone(),
                state: State::Plain,
            },
            Device::Cuda(card) => Self {
                device: Device::Cuda(card.apart()),
                state: State::New,
            },
        }
    }

    /// Whether runs start a record.
    pub fn is_recorded(&self) -> bool {
        matches!(self.state, State::Recorded(..))
    }

    /// Runs the work, which must use the device that it is given. It is not called when a record is started.
    ///
    /// # Errors
    /// What the work gives; [`KernelError::Driver`].
    pub fn run(
        &mut self,
        mut work: impl FnMut(&Device) -> Result<(), KernelError>,
    ) -> Result<(), KernelError> {
        if matches!(self.state, State::Warm) {
            self.state = self.record(&mut work);
        }
        match (&self.state, &self.device) {
            (State::Recorded(number, flop), Device::Cuda(card)) => {
                card.gpu().machine().replay(*number)?;
                card.replays.fetch_add(1, Relaxed);
                card.cpu().flop.fetch_add(*flop, Relaxed);
            }
            (State::New, _) => {
                work(&self.device)?;
                self.state = State::Warm;
            }
            _ => work(&self.device)?,
        }
        Ok(())
    }

    /// Work that waits, allocates or moves values cannot be recorded; nothing of it has happened then.
    fn record(&self, work: &mut impl FnMut(&Device) -> Result<(), KernelError>) -> State {
        let Device::Cuda(card) = &self.device else {
            return State::Plain;
        };
        let (machine, flop) = (card.gpu().machine(), &card.cpu().flop);
        let before = flop.load(Relaxed);
        if machine.begin_recording().is_err() {
            return State::Plain;
        }
        let outcome = work(&self.device);
        let number = machine.end_recording();
        let counted = flop.swap(before, Relaxed) - before;
        match (outcome, number) {
            (Ok(()), Ok(number)) => State::Recorded(number, counted),
            (Err(_), Ok(number)) => {
                machine.forget(number);
                State::Plain
            }
            (_, Err(_)) => State::Plain,
        }
    }
}

impl Drop for Repeat {
    fn drop(&mut self) {
        if let (State::Recorded(number, _), Device::Cuda(card)) = (&self.state, &self.device) {
            card.gpu().machine().forget(*number);
        }
    }
}
