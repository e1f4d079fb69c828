//! Makes a value of any type from bytes: a serde format in which every byte string is valid.
//!
//! The values follow from the types alone, so new messages are fuzzed without further work, and the protocol contains
//! no code for fuzzing. What a fuzzer would never guess, such as an id that the peer knows, is taken from [`Pools`] by
//! the name of its type.

use std::collections::BTreeMap;
use std::fmt::Display;

use serde::de::value::{Error, SeqDeserializer};
use serde::de::{
    DeserializeOwned, DeserializeSeed, Deserializer, EnumAccess, Error as _, IntoDeserializer, MapAccess,
    SeqAccess, VariantAccess, Visitor,
};

/// Lengths of texts around the protocol's limits.
const LENGTHS: [usize; 7] = [0, 63, 64, 255, 2560, 2561, 40_000];

/// The longest list: a little more than the protocol's own limits allow.
const MANY: usize = 300;

/// The number of elements of all lists of one value together, because nested lists would grow without end.
const ELEMENTS: usize = 600;

/// Known values that are worth repeating, by the name of their type.
#[derive(Debug, Clone, Default)]
pub struct Pools {
    bytes: BTreeMap<&'static str, Vec<Vec<u8>>>,
    numbers: BTreeMap<&'static str, Vec<i64>>,
    words: Vec<String>,
}

impl Pools {
    /// Adds ids or keys of a type.
    pub fn bytes(&mut self, name: &'static str, values: impl IntoIterator<Item = impl AsRef<[u8]>>) {
        let values = values.into_iter().map(|value| value.as_ref().to_vec());
        self.bytes.insert(name, values.collect());
    }

    /// Adds numbers of a type. None may be negative if the type is unsigned.
    pub fn numbers(&mut self, name: &'static str, values: impl IntoIterator<Item = i64>) {
        self.numbers.insert(name, values.into_iter().collect());
    }

    pub fn words(&mut self, words: &[&str]) {
        self.words = words.iter().map(|word| (*word).to_owned()).collect();
    }
}

/// The bytes from which values are made. When they are used up, a fixed sequence follows, so that it never fails.
#[derive(Debug)]
pub struct Source<'a> {
    rest: &'a [u8],
    noise: u64,
    /// Elements that are still allowed.
    room: usize,
    pub pools: Pools,
}

impl<'a> Source<'a> {
    pub fn new(bytes: &'a [u8]) -> Self {
        Self { rest: bytes, noise: 0, room: ELEMENTS, pools: Pools::default() }
    }

    /// Whether all given bytes are used up.
    pub fn is_empty(&self) -> bool {
        self.rest.is_empty()
    }

    pub fn byte(&mut self) -> u8 {
        if let Some((first, rest)) = self.rest.split_first() {
            self.rest = rest;
            return *first;
        }
        // The high bits of a linear congruential generator (Knuth's MMIX).
        self.noise =
            self.noise.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.noise >> 56) as u8
    }

    /// `limit` is at most 256.
    pub fn below(&mut self, limit: usize) -> usize {
        usize::from(self.byte()) % limit.max(1)
    }

    /// True with probability 1 / `n`.
    pub fn one_in(&mut self, n: usize) -> bool {
        self.below(n) == 0
    }

    pub fn pick<T: Copy>(&mut self, from: &[T]) -> T {
        from[self.below(from.len())]
    }

    /// Makes a value of any type that bincode supports.
    ///
    /// # Panics
    /// The type needs a self-describing format, which no message may.
    pub fn any<T: DeserializeOwned>(&mut self) -> T {
        self.room = ELEMENTS;
        T::deserialize(self).expect("every byte string is a value of every plain type")
    }

    fn word(&mut self) -> u64 {
        (0..8).fold(0, |word, _| word << 8 | u64::from(self.byte()))
    }

    /// Mostly small, sometimes any number, sometimes the largest ones.
    fn number(&mut self, bits: u32) -> u64 {
        let max = u64::MAX >> (64 - bits);
        match self.below(8) {
            0..=3 => self.below(4) as u64,
            4 | 5 => u64::from(self.byte()),
            6 => self.word() & max,
            _ => max - self.below(2) as u64,
        }
    }

    fn signed(&mut self) -> i64 {
        match self.below(8) {
            0..=3 => self.below(4) as i64,
            4 => -(self.below(200) as i64),
            5 => self.word() as i64,
            6 => i64::MIN + self.below(2) as i64,
            _ => i64::MAX - self.below(2) as i64,
        }
    }

    fn length(&mut self) -> usize {
        let length = match self.below(32) {
            0..=7 => 0,
            8..=19 => 1,
            20..=29 => 2 + self.below(3),
            30 => self.below(32),
            _ => self.below(256) + MANY - 255,
        };
        let length = length.min(self.room);
        self.room -= length;
        length
    }

    fn text(&mut self) -> String {
        let words = self.pools.words.len();
        match self.below(16) {
            0..=11 if words > 0 => {
                let at = self.below(words);
                self.pools.words[at].clone()
            }
            0..=13 => (0..self.below(12)).map(|_| char::from(b' ' + self.byte() % 95)).collect(),
            14 => "ü\u{1F600}\0\n".repeat(self.below(8)),
            _ => "x".repeat(LENGTHS[self.below(LENGTHS.len())]),
        }
    }
}

/// A list that is being made.
struct Items<'s, 'a> {
    source: &'s mut Source<'a>,
    left: usize,
}

impl<'de> SeqAccess<'de> for Items<'_, '_> {
    type Error = Error;

    fn next_element_seed<T: DeserializeSeed<'de>>(&mut self, seed: T) -> Result<Option<T::Value>, Error> {
        if self.left == 0 {
            return Ok(None);
        }
        self.left -= 1;
        seed.deserialize(&mut *self.source).map(Some)
    }

    fn size_hint(&self) -> Option<usize> {
        Some(self.left)
    }
}

impl<'de> MapAccess<'de> for Items<'_, '_> {
    type Error = Error;

    fn next_key_seed<K: DeserializeSeed<'de>>(&mut self, seed: K) -> Result<Option<K::Value>, Error> {
        self.next_element_seed(seed)
    }

    fn next_value_seed<V: DeserializeSeed<'de>>(&mut self, seed: V) -> Result<V::Value, Error> {
        seed.deserialize(&mut *self.source)
    }
}

impl<'de> VariantAccess<'de> for &mut Source<'_> {
    type Error = Error;

    fn unit_variant(self) -> Result<(), Error> {
        Ok(())
    }

    fn newtype_variant_seed<T: DeserializeSeed<'de>>(self, seed: T) -> Result<T::Value, Error> {
        seed.deserialize(self)
    }

    fn tuple_variant<V: Visitor<'de>>(self, len: usize, visitor: V) -> Result<V::Value, Error> {
        visitor.visit_seq(Items { source: self, left: len })
    }

    fn struct_variant<V: Visitor<'de>>(
        self,
        fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Error> {
        visitor.visit_seq(Items { source: self, left: fields.len() })
    }
}

fn unknown<T>(what: impl Display) -> Result<T, Error> {
    Err(Error::custom(format!("{what} needs a self-describing format")))
}

macro_rules! numbers {
    ($($method:ident $visit:ident $type:ty;)*) => {$(
        fn $method<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
            visitor.$visit(self.number(<$type>::BITS) as $type)
        }
    )*};
}

impl<'de> Deserializer<'de> for &mut Source<'_> {
    type Error = Error;

    numbers! {
        deserialize_u8 visit_u8 u8;
        deserialize_u16 visit_u16 u16;
        deserialize_u32 visit_u32 u32;
        deserialize_u64 visit_u64 u64;
        deserialize_i8 visit_i8 i8;
        deserialize_i16 visit_i16 i16;
        deserialize_i32 visit_i32 i32;
    }

    fn deserialize_i64<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        visitor.visit_i64(self.signed())
    }

    fn deserialize_bool<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        visitor.visit_bool(self.byte() & 1 == 1)
    }

    fn deserialize_str<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        visitor.visit_string(self.text())
    }

    fn deserialize_string<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        visitor.visit_string(self.text())
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        if self.byte() & 1 == 0 { visitor.visit_none() } else { visitor.visit_some(self) }
    }

    fn deserialize_unit<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        visitor.visit_unit()
    }

    fn deserialize_unit_struct<V: Visitor<'de>>(self, _: &'static str, v: V) -> Result<V::Value, Error> {
        v.visit_unit()
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(
        self,
        name: &'static str,
        visitor: V,
    ) -> Result<V::Value, Error> {
        let known = self.pools.bytes.get(name).map_or(0, Vec::len);
        let numbers = self.pools.numbers.get(name).map_or(0, Vec::len);
        if known + numbers > 0 && !self.one_in(16) {
            let at = self.below(known.max(numbers));
            if known > 0 {
                let bytes = self.pools.bytes[name][at].clone();
                return visitor.visit_newtype_struct(SeqDeserializer::new(bytes.into_iter()));
            }
            return visitor.visit_newtype_struct(self.pools.numbers[name][at].into_deserializer());
        }
        visitor.visit_newtype_struct(self)
    }

    fn deserialize_seq<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        let left = self.length();
        visitor.visit_seq(Items { source: self, left })
    }

    fn deserialize_map<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        let left = self.length();
        visitor.visit_map(Items { source: self, left })
    }

    fn deserialize_tuple<V: Visitor<'de>>(self, len: usize, visitor: V) -> Result<V::Value, Error> {
        visitor.visit_seq(Items { source: self, left: len })
    }

    fn deserialize_tuple_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        len: usize,
        visitor: V,
    ) -> Result<V::Value, Error> {
        visitor.visit_seq(Items { source: self, left: len })
    }

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Error> {
        visitor.visit_seq(Items { source: self, left: fields.len() })
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        _: &'static str,
        variants: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Error> {
        let at = self.below(variants.len()) as u8;
        visitor.visit_enum(Chosen { at, source: self })
    }

    fn deserialize_any<V: Visitor<'de>>(self, _: V) -> Result<V::Value, Error> {
        unknown("any value")
    }

    fn deserialize_identifier<V: Visitor<'de>>(self, _: V) -> Result<V::Value, Error> {
        unknown("a field's name")
    }

    fn deserialize_ignored_any<V: Visitor<'de>>(self, _: V) -> Result<V::Value, Error> {
        unknown("a value that is passed over")
    }

    fn deserialize_f32<V: Visitor<'de>>(self, _: V) -> Result<V::Value, Error> {
        unknown("a float, which no message has,")
    }

    fn deserialize_f64<V: Visitor<'de>>(self, _: V) -> Result<V::Value, Error> {
        unknown("a float, which no message has,")
    }

    fn deserialize_char<V: Visitor<'de>>(self, _: V) -> Result<V::Value, Error> {
        unknown("a character, which no message has,")
    }

    fn deserialize_bytes<V: Visitor<'de>>(self, _: V) -> Result<V::Value, Error> {
        unknown("a byte string, which no message has,")
    }

    fn deserialize_byte_buf<V: Visitor<'de>>(self, _: V) -> Result<V::Value, Error> {
        unknown("a byte string, which no message has,")
    }
}

/// The chosen variant of an enum.
struct Chosen<'s, 'a> {
    at: u8,
    source: &'s mut Source<'a>,
}

impl<'de, 's, 'a> EnumAccess<'de> for Chosen<'s, 'a> {
    type Error = Error;
    type Variant = &'s mut Source<'a>;

    fn variant_seed<V: DeserializeSeed<'de>>(self, seed: V) -> Result<(V::Value, Self::Variant), Error> {
        Ok((seed.deserialize(u32::from(self.at).into_deserializer())?, self.source))
    }
}
