//! The rules of the node that takes orders.
//!
//! A master favours availability: it always takes orders and always answers, and says how fresh the answer is. Its
//! state is an order book ([`Book`]: what waits, and who may take it) and one [`SlaveRecord`] per slave (its link and what it
//! last said of itself). What moves between slaves goes through the book.
//!
//! [`step`] is the one entry. A rule runs on no more than it may touch: `jobs` is the book, `visit` is one slave with its link and
//! the book, and only the few rules in `step`'s `Rules` see the whole master. `jobs` and `visit` let no rule change a job or a slave
//! record without marking it, but for the link while a handshake is under way, of which nothing is shown; at the end of the step `out`
//! writes and publishes what was marked.
//!
//! In reading order: `state`, `event` and `effect` are what a step works on, `load` what it needs from disk; `order` is a job as the
//! master keeps it; `hello` runs from the Challenge to the Welcome, with `enrolment` (who belongs here), and `settle` from there to the
//! live link, with `adopt` (jobs that the master does not know);
//! `report` and `decline` take what slaves say, as far as it is theirs to say (`said`); `attempts` decides which attempt speaks for a
//! job; `command` answers clients and operators; `lapse` ends what holds for a length of time; `placement` gives work to whom
//! it fits, by who has room (`availability`) and by what each job waits for (`line`).

mod adopt;
mod attempts;
mod availability;
mod book;
mod command;
mod decline;
mod effect;
mod elsewhere;
mod enrolment;
mod event;
mod explain;
mod hello;
mod index;
mod jobs;
mod lapse;
mod line;
mod live;
mod load;
mod needs;
mod order;
mod out;
mod placement;
mod reason;
mod refusal;
mod report;
mod said;
mod settle;
mod slave_record;
mod state;
mod step;
mod visit;

pub use self::availability::Availability;
pub use self::book::Book;
pub use self::effect::{Answer, Delivery, Effect, Ignored, Step, Write};
pub use self::event::{Event, IdempotencyKey, JobCommand, SlaveCommand};
pub use self::explain::{Considered, Explanation, Gated, Waits, WhyNot, explain};
pub use self::live::Live;
pub use self::load::{Loaded, Unknown, unknown};
pub use self::needs::{Need, Needed, Subject, count_needs, needs};
pub use self::order::{
    Basis, Job, JobEvent, MAX_RETRY_BACKOFF, Order, OtherAttempt, REJECTIONS, RETRY_BACKOFF, RejectedBy,
    Retry, RetryOn,
};
pub use self::reason::JobReason;
pub use self::refusal::{CloseReason, NotEnrolled, NothingToDo, Offline, Refusal, SlaveRefused, WrongState};
pub use self::slave_record::{
    AgentStart, Contender, Enrolled, Judged, Receipt, ReceiptLine, SlaveLink, SlaveRecord, jobs_at,
};
pub use self::state::{
    Asked, AskedFor, Enrollment, MAX_PENDING, Master, Node, Origin, Placement, RECALL_BEFORE, RECEIPTS,
    RECENT_KEYS, RequestId, Settings, Token, broken_invariant, durable, newborn, origin, recover,
};
use self::step::Rules;
pub use self::step::{next_deadline, step};
