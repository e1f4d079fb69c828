//! Who belongs here: enrolment, by the config's rule, a token, or a person's word.

use super::slave_record::{Enrolled, SlaveRecord};
use super::{Enrollment, MAX_PENDING, Rules, Write};
use crate::message::{CloseCode, Hello};

impl Rules {
    /// Whether the slave belongs here; enrols it where that is due.
    pub(super) fn admit(
        &mut self,
        hello: &Hello,
        token: Option<[u8; 32]>,
    ) -> Result<(), (CloseCode, String)> {
        let key = hello.key;
        let name = &hello.name;
        if let Some(slave) = self.state.slaves.get(&key)
            && slave.enrolled == Enrolled::Yes
        {
            return Ok(());
        }
        let namesake = self.state.slaves.values().find(|slave| slave.name == *name && slave.key != key);
        if let Some(other) = namesake.filter(|slave| slave.enrolled != Enrolled::Revoked) {
            let text = format!(
                "the name {name} belongs to the key {}: rename this slave, or `reloop slave forget {name}` if that \
                 one is gone",
                other.key.fingerprint()
            );
            return Err((CloseCode::NameTaken, text));
        }
        let revoked = self.state.slaves.get(&key).is_some_and(|slave| slave.enrolled == Enrolled::Revoked);
        let by_token = self.spend(token, name);
        let by_whom = match (self.state.settings.enrollment, by_token) {
            (_, Ok(())) => Ok(()),
            // Neither an open door nor a person's approval lets in again whom an admin has revoked.
            (Enrollment::Open | Enrollment::Approve, Err(_)) if revoked => {
                Err("this slave was revoked: only a token enrols it again".to_owned())
            }
            (Enrollment::Open, Err(_)) => Ok(()),
            (Enrollment::Token, Err(why)) => Err(why),
            (Enrollment::Approve, Err(_)) => Err(format!("`reloop slave approve {name}` enrols it")),
        };
        match by_whom {
            Ok(()) => {
                self.insert_slave(hello, Enrolled::Yes);
                Ok(())
            }
            Err(why) => {
                self.remember_caller(hello);
                let other = match hello.binding {
                    Some(binding) if binding.master != self.state.node.id => {
                        format!(" (it belongs to {}, this is {})", binding.master, self.state.node.id)
                    }
                    _ => String::new(),
                };
                let code = match (revoked, other.is_empty()) {
                    (true, _) => CloseCode::Revoked,
                    (false, true) => CloseCode::NotEnrolled,
                    (false, false) => CloseCode::WrongMaster,
                };
                Err((code, format!("{name}, key {}, is not enrolled here{other}: {why}", key.fingerprint())))
            }
        }
    }

    fn spend(&mut self, token: Option<[u8; 32]>, name: &str) -> Result<(), String> {
        let make_one = "make one with `reloop slave enroll-token`, and let `reloop-slave enroll` have it";
        let Some(hash) = token else { return Err(format!("it needs an enrolment token: {make_one}")) };
        let now = self.now;
        let Some(token) = self.state.tokens.get_mut(&hash) else {
            return Err(format!("its enrolment token is not known, or spent: {make_one}"));
        };
        if token.expires_at < now {
            return Err(format!("its enrolment token has expired: {make_one}"));
        }
        if token.name.as_ref().is_some_and(|only| only != name) {
            return Err(format!("its enrolment token is for another name: {make_one}"));
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
