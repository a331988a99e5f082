//! Contenders that are there for their own turn only.

use crate::conditions::Conditions;
use crate::cost::Cost;
use crate::failure::Failure;
use crate::scenario::Contender;

type Start<C> = Box<dyn Fn() -> Result<C, Failure>>;

/// A contender that is started anew for each of its turns, brings the bytes once before it is measured, and ends after that,
/// so that its memory is there for the others.
pub struct InTurn<C> {
    name: String,
    start: Start<C>,
    running: Option<C>,
}

/// A contender that stays up between its turns, or one that does not, as the conditions say.
pub fn started<C: Contender + 'static>(
    name: &str,
    conditions: &Conditions,
    start: impl Fn() -> Result<C, Failure> + 'static,
) -> Result<Box<dyn Contender>, Failure> {
    if !conditions.in_turn {
        return Ok(Box::new(start()?));
    }
    Ok(Box::new(InTurn { name: name.to_owned(), start: Box::new(start), running: None }))
}

impl<C: Contender> InTurn<C> {
    /// One whose turn fails ends as well: the others need its memory.
    fn ended_if_it_fails<T>(
        &mut self,
        step: impl FnOnce(&mut C) -> Result<T, Failure>,
    ) -> Result<T, Failure> {
        let done = step(self.running.as_mut().expect("the runner makes it ready before anything else"));
        if done.is_err() {
            self.running = None;
        }
        done
    }
}

impl<C: Contender> Contender for InTurn<C> {
    fn name(&self) -> String {
        self.name.clone()
    }

    fn ready(&mut self, round: u32) -> Result<(), Failure> {
        self.running = Some((self.start)()?);
        self.ended_if_it_fails(|contender| {
            contender.ready(0)?;
            contender.run()?;
            contender.verify()?;
            contender.ready(round)
        })
    }

    fn run(&mut self) -> Result<Cost, Failure> {
        self.ended_if_it_fails(C::run)
    }

    fn verify(&mut self) -> Result<(), Failure> {
        self.ended_if_it_fails(C::verify)?;
        self.running = None;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;
    use std::rc::Rc;
    use std::time::Duration;

    use super::*;

    type Log = Rc<RefCell<Vec<String>>>;

    struct Logged(Log);

    struct Failing(Log);

    impl Contender for Failing {
        fn name(&self) -> String {
            "failing".into()
        }

        fn ready(&mut self, _round: u32) -> Result<(), Failure> {
            Ok(())
        }

        fn run(&mut self) -> Result<Cost, Failure> {
            Err(Failure::Interrupted)
        }

        fn verify(&mut self) -> Result<(), Failure> {
            Ok(())
        }
    }

    impl Drop for Failing {
        fn drop(&mut self) {
            self.0.borrow_mut().push("end".into());
        }
    }

    impl Contender for Logged {
        fn name(&self) -> String {
            "logged".into()
        }

        fn ready(&mut self, round: u32) -> Result<(), Failure> {
            self.0.borrow_mut().push(format!("ready {round}"));
            Ok(())
        }

        fn run(&mut self) -> Result<Cost, Failure> {
            self.0.borrow_mut().push("run".into());
            Ok(Cost { wall: Duration::from_secs(1), processors: Duration::ZERO })
        }

        fn verify(&mut self) -> Result<(), Failure> {
            self.0.borrow_mut().push("verify".into());
            Ok(())
        }
    }

    impl Drop for Logged {
        fn drop(&mut self) {
            self.0.borrow_mut().push("end".into());
        }
    }

    fn turns(in_turn: bool) -> Vec<String> {
        let log = Log::default();
        let conditions = Conditions { in_turn, ..Conditions::plain() };
        let start = {
            let log = log.clone();
            move || {
                log.borrow_mut().push("start".into());
                Ok(Logged(log.clone()))
            }
        };
        let mut contender = started("logged", &conditions, start).unwrap();
        assert_eq!(contender.name(), "logged");
        for round in 3..5 {
            contender.ready(round).unwrap();
            assert_eq!(contender.run().unwrap().wall, Duration::from_secs(1));
            contender.verify().unwrap();
        }
        log.borrow().clone()
    }

    #[test]
    fn who_comes_in_turn_is_there_for_its_turn_alone() {
        let turn = |round| {
            let words = ["start", "ready 0", "run", "verify", round, "run", "verify", "end"];
            words.map(str::to_owned)
        };
        assert_eq!(turns(true), [turn("ready 3"), turn("ready 4")].concat());
    }

    #[test]
    fn who_fails_ends_at_once() {
        let log = Log::default();
        let conditions = Conditions { in_turn: true, ..Conditions::plain() };
        let failing = log.clone();
        let mut contender = started("failing", &conditions, move || Ok(Failing(failing.clone()))).unwrap();
        assert!(contender.ready(1).is_err());
        assert_eq!(*log.borrow(), ["end"]);
    }

    #[test]
    fn who_stays_starts_once() {
        let words = ["start", "ready 3", "run", "verify", "ready 4", "run", "verify"];
        assert_eq!(turns(false), words.map(str::to_owned));
    }
}
