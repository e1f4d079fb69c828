//! The link to the master, and what the slave owes and believes it: the rules here touch neither jobs nor the machine.

use std::collections::BTreeMap;

use super::out::Out;
use super::{AskRefused, Closing, Disclosure, Effect, Link, LinkId, Slave};
use crate::id::{Commit, JobId, ReportSeq, Session};
use crate::message::{Answer, Challenge, MasterBinding, Message, PROTOCOL, Reply};

pub(super) struct Uplink<'a> {
    link: &'a mut Link,
    session: &'a mut Session,
    binding: &'a mut Option<MasterBinding>,
    token: &'a mut Option<String>,
    told: &'a mut BTreeMap<JobId, ReportSeq>,
    owed: &'a mut Option<Commit>,
    out: &'a mut Out,
}

/// What a master is to this slave: see [`standing`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Standing {
    /// No master before, or one that is not known to have got the slave's recent outcomes.
    New,
    Foreign,
    /// It may be an old copy of the slave's master.
    Old,
    /// The slave's master was restored, and a person has confirmed that.
    Restored,
    Known,
}

impl Standing {
    /// What a Hello tells it.
    fn disclosure(self) -> Disclosure {
        match self {
            Self::Foreign => Disclosure::Identity,
            Self::Known => Disclosure::Jobs,
            Self::New | Self::Old | Self::Restored => Disclosure::JobsAndOutcomes,
        }
    }

    /// Whether its clock is taken for the master's.
    pub(super) fn tells_the_time(self) -> bool {
        match self {
            Self::New | Self::Known | Self::Restored => true,
            Self::Foreign | Self::Old => false,
        }
    }
}

/// Whether a master is one that this slave may obey, by what it has seen before.
fn standing(binding: Option<MasterBinding>, challenge: &Challenge) -> Standing {
    match binding {
        None => Standing::New,
        Some(binding) if binding.master != challenge.master => Standing::Foreign,
        Some(binding) if binding.epoch > challenge.epoch => Standing::Old,
        // The master is not known to have got the recent outcomes, so they are told again.
        Some(binding) if binding.commit == Commit(0) => Standing::New,
        Some(binding)
            if binding.epoch == challenge.epoch
                && binding.is_ahead_of(challenge.commit, &challenge.begun) =>
        {
            Standing::Old
        }
        Some(binding) if binding.epoch < challenge.epoch => Standing::Restored,
        Some(_) => Standing::Known,
    }
}

impl<'a> Uplink<'a> {
    pub(super) fn new(state: &'a mut Slave, out: &'a mut Out) -> Self {
        let Slave { settings, node, link, volatile, .. } = state;
        Self {
            link,
            session: &mut node.session,
            binding: &mut node.binding,
            token: &mut settings.token,
            told: &mut volatile.told,
            owed: &mut volatile.owed,
            out,
        }
    }

    pub(super) fn opened(&mut self, link: LinkId, token: Option<String>) {
        *self.token = token;
        *self.link = Link::Opened { link };
    }

    pub(super) fn closed(&mut self, closed: LinkId) {
        if self.link.id() == Some(closed) {
            *self.link = Link::Down;
        }
    }

    /// Closes the link, which is down from here on.
    pub(super) fn drop_link(&mut self, why: Closing) {
        if let Some(link) = self.link.id() {
            *self.link = Link::Down;
            self.out.close(link, why);
        }
    }

    /// Begins a session. The Hello follows when the machine has answered. `None`: the master speaks none of the slave's versions.
    pub(super) fn challenged(&mut self, link: LinkId, challenge: &Challenge) -> Option<Standing> {
        if PROTOCOL.common(challenge.protocol).is_none() {
            self.out.close(link, Closing::Version(challenge.protocol));
            return None;
        }
        let standing = standing(*self.binding, challenge);
        *self.session = self.session.next();
        let (doubtful, disclosure) = (standing == Standing::Old, standing.disclosure());
        *self.link = Link::Challenged { link, doubtful, disclosure };
        Some(standing)
    }

    /// The slave says Hello, which tells these reports.
    pub(super) fn introduced(&mut self, told: BTreeMap<JobId, ReportSeq>, hello: Message) {
        let Link::Challenged { link, doubtful, .. } = *self.link else { return };
        let session = *self.session;
        *self.told = told;
        *self.link = Link::Introduced { link, session, doubtful };
        self.out.act(Effect::Send { link, session, message: hello });
    }

    /// Another master admits the slave, which has told it nothing yet: bind to it, and introduce again.
    pub(super) fn admitted(&mut self, master: MasterBinding) {
        *self.binding = Some(MasterBinding { commit: Commit(0), ..master });
        self.drop_link(Closing::Admitted);
    }

    /// Obeys the master of a Welcome from here on. Whether recent outcomes that were told have arrived shows when the master says
    /// something: until then, they are told again.
    pub(super) fn bind(&mut self, master: MasterBinding, has_outcomes: bool) {
        let told =
            self.binding.is_none_or(|binding| binding.commit == Commit(0) || binding.epoch < master.epoch);
        let owed = told && has_outcomes;
        *self.owed = owed.then_some(master.commit);
        let commit = if owed { Commit(0) } else { master.commit };
        *self.binding = Some(MasterBinding { commit, ..master });
    }

    /// The master says something on a live link, so it has the Settled.
    pub(super) fn settled_has_arrived(&mut self) {
        if let (Some(commit), Some(binding)) = (self.owed.take(), self.binding.as_mut()) {
            binding.commit = commit;
        }
    }

    /// The master has come this far: what follows from its message is on disk only together with that.
    pub(super) fn saw(&mut self, commit: Commit) {
        if let Some(binding) = self.binding {
            binding.commit = binding.commit.max(commit);
        }
    }

    /// Answers a question on a live link.
    pub(super) fn answer(&mut self, id: u32, answer: Result<(), AskRefused>) {
        let Link::Live { link, session, .. } = *self.link else { return };
        let answer = match answer {
            Ok(()) => Reply::Done,
            Err(why) => Reply::Refused(why.text().to_owned()),
        };
        let message = Message::Answer(Answer { id, answer });
        self.out.act(Effect::Send { link, session, message });
    }
}
