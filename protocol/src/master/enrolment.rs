//! Who belongs here: enrolment, by the config's rule, a token, or a person's word.

use super::slave_record::{Enrolled, SlaveRecord};
use super::{CloseReason, Enrollment, MAX_PENDING, NotEnrolled, Rules, Write};
use crate::message::Hello;

impl Rules {
    /// Whether the slave belongs here; enrols it where that is due.
    pub(super) fn admit(&mut self, hello: &Hello, token: Option<[u8; 32]>) -> Result<(), CloseReason> {
        let key = hello.key;
        let name = &hello.name;
        if let Some(slave) = self.state.slaves.get(&key)
            && slave.enrolled == Enrolled::Yes
        {
            return Ok(());
        }
        let is_namesake = |slave: &&SlaveRecord| {
            slave.name == *name && slave.key != key && slave.enrolled != Enrolled::Revoked
        };
        if let Some(other) = self.state.slaves.values().find(is_namesake) {
            return Err(CloseReason::NameTaken { name: name.clone(), key: other.key });
        }
        let was_revoked =
            self.state.slaves.get(&key).is_some_and(|slave| slave.enrolled == Enrolled::Revoked);
        let by_token = self.spend(token, name);
        let by_whom = match (self.state.settings.enrollment, by_token) {
            (_, Ok(())) => Ok(()),
            // Only a token enrols a revoked slave again.
            (Enrollment::Open | Enrollment::Approve, Err(_)) if was_revoked => Err(NotEnrolled::Revoked),
            (Enrollment::Open, Err(_)) => Ok(()),
            (Enrollment::Token, Err(why)) => Err(why),
            (Enrollment::Approve, Err(_)) => Err(NotEnrolled::Pending),
        };
        match by_whom {
            Ok(()) => {
                self.insert_slave(hello, Enrolled::Yes);
                Ok(())
            }
            Err(why) => {
                self.remember_caller(hello);
                let own = self.state.node.id;
                let theirs = hello.binding.map(|binding| binding.master).filter(|theirs| *theirs != own);
                let foreign = theirs.map(|theirs| [theirs, own]);
                Err(CloseReason::NotEnrolled { name: name.clone(), key, why, foreign, was_revoked })
            }
        }
    }

    fn spend(&mut self, token: Option<[u8; 32]>, name: &str) -> Result<(), NotEnrolled> {
        let hash = token.ok_or(NotEnrolled::NoToken)?;
        let now = self.now;
        let token = self.state.tokens.get_mut(&hash).ok_or(NotEnrolled::UnknownToken)?;
        if token.expires_at < now {
            return Err(NotEnrolled::ExpiredToken);
        }
        if token.name.as_ref().is_some_and(|only| only != name) {
            return Err(NotEnrolled::OtherName);
        }
        token.uses_left = token.uses_left.saturating_sub(1);
        let left = (token.uses_left > 0).then(|| token.clone());
        if left.is_none() {
            self.state.tokens.remove(&hash);
        }
        self.out.persist.push(Write::Token(hash, left));
        Ok(())
    }

    /// A person can approve only what is listed.
    fn remember_caller(&mut self, hello: &Hello) {
        let pending = self.state.slaves.values().filter(|slave| slave.enrolled == Enrolled::Pending).count();
        if self.state.settings.enrollment == Enrollment::Approve
            && pending < MAX_PENDING
            && !self.state.slaves.contains_key(&hello.key)
        {
            self.insert_slave(hello, Enrolled::Pending);
        }
    }

    fn insert_slave(&mut self, hello: &Hello, enrolled: Enrolled) {
        let key = hello.key;
        self.state.slaves.entry(key).or_insert_with(|| SlaveRecord::new(key, hello, enrolled));
        if let Some(mut visit) = self.visit(key) {
            visit.edit(|slave| {
                slave.enrolled = enrolled;
                slave.name.clone_from(&hello.name);
            });
        }
    }
}
