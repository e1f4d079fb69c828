//! Schemas of fields whose words or limits are constants: the attributes of the derive take literals only.

use reloop_protocol::job::State;
use reloop_protocol::master::{Delivery, Need, WhyNot};
use reloop_protocol::message::{Activity, Mode, ReasonCode};
use reloop_protocol::reconcile::Store;
use utoipa::openapi::schema::{
    AdditionalProperties, Array, ArrayBuilder, Object, ObjectBuilder, OneOfBuilder, Schema, SchemaType, Type,
};

use crate::limits::{
    ATTEMPTS_LIMIT, BACKOFF_LIMIT_SECONDS, ENROLL_DEFAULT_SECONDS, ENROLL_LIMIT_SECONDS, ENTRIES_LIMIT,
    NAME_LIMIT, QUANTITY_LIMIT, RELEASE_DEFAULT_SECONDS, RELEASE_LIMIT_SECONDS, RUNTIME_LIMIT_SECONDS,
    USES_LIMIT, VALUE_LIMIT,
};
use crate::words::{CANCEL_MODES, ENDS, LATE, LINKS, ON_INTERRUPT, ON_OVERDUE, RETRY_ON};
use crate::{Code, Role};

fn text() -> ObjectBuilder {
    ObjectBuilder::new().schema_type(Type::String)
}

pub(crate) fn text_or_null() -> Object {
    ObjectBuilder::new().schema_type(SchemaType::Array(vec![Type::String, Type::Null])).build()
}

fn one_of<'a>(words: impl IntoIterator<Item = &'a str>) -> Object {
    text().enum_values(Some(words)).build()
}

fn one_of_pairs<T>(words: &[(&str, T)]) -> Object {
    one_of(words.iter().map(|(word, _)| *word))
}

fn or_null(schema: Object) -> Schema {
    OneOfBuilder::new().item(schema).item(ObjectBuilder::new().schema_type(Type::Null)).into()
}

fn whole(minimum: i64, maximum: i64, default: Option<i64>) -> Object {
    let whole = ObjectBuilder::new().schema_type(Type::Integer);
    whole.minimum(Some(minimum)).maximum(Some(maximum)).default(default.map(Into::into)).build()
}

pub(crate) fn state() -> Object {
    one_of(State::ALL.map(State::name))
}

pub(crate) fn state_or_null() -> Schema {
    or_null(state())
}

pub(crate) fn desired() -> Object {
    one_of(["run", "pause", "cancel", "resolve"])
}

pub(crate) fn gate() -> Object {
    one_of(["open", "held", "released"])
}

pub(crate) fn late() -> Object {
    one_of_pairs(&LATE)
}

pub(crate) fn on_overdue() -> Object {
    one_of_pairs(&ON_OVERDUE)
}

pub(crate) fn on_interrupt() -> Object {
    one_of_pairs(&ON_INTERRUPT)
}

pub(crate) fn retry_on() -> Array {
    ArrayBuilder::new().items(one_of_pairs(&RETRY_ON)).build()
}

pub(crate) fn end() -> Object {
    one_of_pairs(&ENDS)
}

pub(crate) fn cancel_mode() -> Object {
    ObjectBuilder::from(one_of_pairs(&CANCEL_MODES)).default(Some("safe_point".into())).build()
}

pub(crate) fn delivery() -> Object {
    one_of(Delivery::ALL.map(Delivery::name))
}

pub(crate) fn reason_code() -> Object {
    one_of(ReasonCode::ALL.iter().map(|code| code.name()))
}

pub(crate) fn why_not_or_null() -> Schema {
    or_null(one_of(WhyNot::ALL.map(WhyNot::name)))
}

pub(crate) fn link() -> Object {
    one_of(LINKS)
}

pub(crate) fn mode() -> Object {
    one_of(Mode::ALL.map(Mode::name))
}

pub(crate) fn activity() -> Object {
    one_of(Activity::ALL.map(Activity::name))
}

pub(crate) fn enrolled() -> Object {
    one_of(["yes", "pending", "revoked"])
}

pub(crate) fn receipt_store() -> Object {
    one_of(Store::ALL.map(Store::name))
}

pub(crate) fn need() -> Object {
    one_of(Need::ALL.map(Need::name))
}

pub(crate) fn role() -> Object {
    one_of(Role::ALL.map(Role::name))
}

pub(crate) fn problem_code() -> Object {
    one_of(Code::ALL.iter().map(|code| code.name()))
}

/// How many there are of each of these, all of them named.
fn numbers<'a>(names: impl Iterator<Item = &'a str>) -> Object {
    let number = || ObjectBuilder::new().schema_type(Type::Integer);
    names.fold(ObjectBuilder::new(), |object, name| object.property(name, number()).required(name)).build()
}

pub(crate) fn unended_jobs() -> Object {
    numbers(State::ALL.into_iter().filter(|state| !state.is_ended()).map(State::name))
}

pub(crate) fn slaves_by_link() -> Object {
    numbers(LINKS.into_iter())
}

pub(crate) fn name() -> Object {
    text().min_length(Some(1)).max_length(Some(NAME_LIMIT)).build()
}

pub(crate) fn for_the_log() -> Object {
    text().max_length(Some(VALUE_LIMIT)).description(Some("Why, for the master's log.")).build()
}

pub(crate) fn short_texts() -> Object {
    let value = text().max_length(Some(VALUE_LIMIT));
    let texts = ObjectBuilder::new().additional_properties(Some(AdditionalProperties::RefOr(value.into())));
    texts.max_properties(Some(ENTRIES_LIMIT)).build()
}

pub(crate) fn quantity() -> Object {
    whole(1, QUANTITY_LIMIT, Some(1))
}

pub(crate) fn backoff() -> Object {
    whole(0, BACKOFF_LIMIT_SECONDS, Some(10))
}

pub(crate) fn attempts() -> Object {
    whole(1, ATTEMPTS_LIMIT, Some(1))
}

pub(crate) fn max_runtime() -> Object {
    whole(1, RUNTIME_LIMIT_SECONDS, None)
}

pub(crate) fn valid_seconds() -> Object {
    whole(1, RELEASE_LIMIT_SECONDS, Some(RELEASE_DEFAULT_SECONDS))
}

pub(crate) fn ttl_seconds() -> Object {
    whole(1, ENROLL_LIMIT_SECONDS, Some(ENROLL_DEFAULT_SECONDS))
}

pub(crate) fn uses() -> Object {
    whole(1, USES_LIMIT, Some(1))
}
