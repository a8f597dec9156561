//! Requests that are being executed in this process, so that an equal one can wait for them.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard},
    time::Duration,
};

use tokio::sync::watch;

/// Names of running requests, each with how many run and a bell for those who wait.
#[derive(Clone, Debug, Default)]
pub struct InFlight(Arc<Mutex<HashMap<String, Running>>>);

#[derive(Debug)]
struct Running {
    count: usize,
    done: watch::Sender<()>,
}

/// Keeps a request named as running until dropped.
#[derive(Debug)]
pub struct Entered {
    all: InFlight,
    name: String,
}

impl InFlight {
    fn lock(&self) -> MutexGuard<'_, HashMap<String, Running>> {
        self.0
            .lock()
            .expect("no code panics while it holds this lock")
    }

    /// Several equal requests may run at once.
    pub fn enter(&self, name: String) -> Entered {
        let mut all = self.lock();
        let running = all.entry(name.clone()).or_insert_with(|| Running {
            count: 0,
            done: watch::Sender::new(()),
        });
        running.count += 1;
        drop(all);
        Entered {
            all: self.clone(),
            name,
        }
    }

    /// Enters when no equal request runs, waiting for that up to `patience`.
    pub async fn enter_alone(&self, name: &str, patience: Duration) -> Option<Entered> {
        let until = tokio::time::Instant::now() + patience;
        loop {
            let mut bell = {
                let mut all = self.lock();
                match all.get(name) {
                    Some(running) => running.done.subscribe(),
                    None => {
                        let running = Running {
                            count: 1,
                            done: watch::Sender::new(()),
                        };
                        all.insert(name.to_owned(), running);
                        return Some(Entered {
                            all: self.clone(),
                            name: name.to_owned(),
                        });
                    }
                }
            };
            // An error means that the last of them has ended and its sender is gone.
            match tokio::time::timeout_at(until, bell.changed()).await {
                Ok(_) => {}
                Err(_) => return None,
            }
        }
    }

    /// Waits until no equal request runs, but not longer than `patience`.
    pub async fn wait(&self, name: &str, patience: Duration) {
        drop(self.enter_alone(name, patience).await);
    }
}

impl Drop for Entered {
    fn drop(&mut self) {
        let mut all = self.all.lock();
        if let Some(running) = all.get_mut(&self.name) {
            running.count -= 1;
            running.done.send_replace(());
            if running.count == 0 {
                all.remove(&self.name);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LONG: Duration = Duration::from_secs(60);

    #[tokio::test]
    async fn one_waits_for_the_other_and_names_do_not_pile_up() {
        let all = InFlight::default();
        let first = all.enter_alone("a", LONG).await.unwrap();
        assert!(all.enter_alone("a", Duration::ZERO).await.is_none());
        assert!(all.enter_alone("b", Duration::ZERO).await.is_some());
        let second = tokio::spawn({
            let all = all.clone();
            async move { all.enter_alone("a", LONG).await.is_some() }
        });
        tokio::task::yield_now().await;
        drop(first);
        assert!(second.await.unwrap());
        assert!(all.lock().is_empty());
    }

    #[tokio::test]
    async fn waiting_ends_only_when_the_last_equal_request_has() {
        let all = InFlight::default();
        let (first, second) = (all.enter("a".into()), all.enter("a".into()));
        drop(first);
        assert!(all.enter_alone("a", Duration::ZERO).await.is_none());
        drop(second);
        all.wait("a", LONG).await;
        assert!(all.lock().is_empty());
    }
}
