//! One value of any type, read in pieces: all pieces together are the value, and each is small.
//!
//! ```text
//! string    a string                      set    a length and strings; an intset; a listpack
//! list      a length and strings;         hash   a length and pairs; a zipmap, ziplist or listpack
//!           a length and ziplists, or     zset   a length and pairs of string and score, as text or in
//!           listpacks and long elements          eight bytes; a ziplist or listpack
//! ```
//!
//! That members and fields differ is not checked here, since nothing remembers those of earlier pieces.

use std::io::BufRead;

use super::packed::{Atom, Form, Packed};
use super::source::Source;
use super::stream::{Consumer, Entry, Facts, Group, Pending, StreamValue};
use super::{Kind, PIECE_BYTES, PIECE_ITEMS, Problem, RdbError, types};
use crate::resp;

#[derive(Clone, Debug, PartialEq)]
pub enum Piece {
    String(Vec<u8>),
    /// Of a list, from its head on.
    Elements(Vec<Vec<u8>>),
    Members(Vec<Vec<u8>>),
    Scored(Vec<(Vec<u8>, f64)>),
    Fields(Vec<(Vec<u8>, Vec<u8>)>),
    /// Of a stream, the oldest first, before the facts.
    Entries(Vec<Entry>),
    /// Of a stream, after its entries.
    Facts(Facts),
    /// Of a stream, before its consumers.
    Group(Group),
    /// Of the group before, and then what is pending for it.
    Consumer(Consumer),
    Pending(Vec<Pending>),
    /// The name of the module whose value was skipped.
    Module(String),
}

impl Piece {
    /// Bytes of its strings, and some for each item.
    pub fn bytes(&self) -> usize {
        const ITEM_BYTES: usize = 16;
        let sum =
            |strings: &[Vec<u8>]| strings.iter().map(|string| string.len() + ITEM_BYTES).sum();
        match self {
            Piece::String(string) => string.len(),
            Piece::Elements(strings) | Piece::Members(strings) => sum(strings),
            Piece::Scored(pairs) => pairs.iter().map(|(member, _)| member.len() + ITEM_BYTES).sum(),
            Piece::Fields(pairs) => {
                pairs.iter().map(|(field, value)| field.len() + value.len() + ITEM_BYTES).sum()
            }
            Piece::Entries(entries) => {
                entries.iter().map(|entry| sum(&entry.fields) + ITEM_BYTES).sum()
            }
            Piece::Pending(pending) => pending.len() * 3 * ITEM_BYTES,
            Piece::Group(group) => group.name.len() + ITEM_BYTES,
            Piece::Consumer(consumer) => consumer.name.len() + ITEM_BYTES,
            Piece::Facts(_) | Piece::Module(_) => ITEM_BYTES,
        }
    }
}

/// A value that is being read.
pub struct Value {
    pub kind: Kind,
    rest: Rest,
}

enum Rest {
    Nothing,
    String,
    Module,
    Items(Shape, Items),
    Stream(Box<StreamValue>),
}

/// What the items of a collection are made of.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Shape {
    Elements,
    Members,
    Fields,
    /// With scores as text behind a byte, as eight bytes, or as items.
    ScoredOld,
    ScoredDouble,
    ScoredPacked,
}

/// Where the items of a collection are.
enum Items {
    Plain { left: u64 },
    Packed(Place),
    Nodes { left: u64, plain_too: bool, node: Option<Place> },
}

/// A packed collection, and where in the file it began.
struct Place {
    packed: Packed,
    offset: u64,
}

const NODE_PLAIN: u64 = 1;
const NODE_PACKED: u64 = 2;

impl Value {
    /// Begins with what comes after the type.
    pub fn begin<R: BufRead>(source: &mut Source<R>, type_code: u8) -> Result<Value, RdbError> {
        use Shape::{Elements, Fields, Members, ScoredDouble, ScoredOld, ScoredPacked};
        let plain = |kind, shape, source: &mut Source<R>| {
            Ok(Value { kind, rest: Rest::Items(shape, Items::Plain { left: source.length()? }) })
        };
        let packed = |kind, shape, form, source: &mut Source<R>| {
            let items = Items::Packed(Place::read(source, form)?);
            Ok(Value { kind, rest: Rest::Items(shape, items) })
        };
        let nodes = |plain_too, source: &mut Source<R>| {
            let items = Items::Nodes { left: source.length()?, plain_too, node: None };
            Ok(Value { kind: Kind::List, rest: Rest::Items(Elements, items) })
        };
        match type_code {
            types::STRING => Ok(Value { kind: Kind::String, rest: Rest::String }),
            types::LIST => plain(Kind::List, Elements, source),
            types::SET => plain(Kind::Set, Members, source),
            types::ZSET => plain(Kind::SortedSet, ScoredOld, source),
            types::ZSET_2 => plain(Kind::SortedSet, ScoredDouble, source),
            types::HASH => plain(Kind::Hash, Fields, source),
            types::HASH_ZIPMAP => packed(Kind::Hash, Fields, Form::Zipmap, source),
            types::HASH_ZIPLIST => packed(Kind::Hash, Fields, Form::Ziplist, source),
            types::HASH_LISTPACK => packed(Kind::Hash, Fields, Form::Listpack, source),
            types::LIST_ZIPLIST => packed(Kind::List, Elements, Form::Ziplist, source),
            types::SET_INTSET => packed(Kind::Set, Members, Form::Intset, source),
            types::SET_LISTPACK => packed(Kind::Set, Members, Form::Listpack, source),
            types::ZSET_ZIPLIST => packed(Kind::SortedSet, ScoredPacked, Form::Ziplist, source),
            types::ZSET_LISTPACK => packed(Kind::SortedSet, ScoredPacked, Form::Listpack, source),
            types::LIST_QUICKLIST => nodes(false, source),
            types::LIST_QUICKLIST_2 => nodes(true, source),
            types::STREAM | types::STREAM_2 | types::STREAM_3 => {
                let stream = StreamValue::begin(source, type_code)?;
                Ok(Value { kind: Kind::Stream, rest: Rest::Stream(Box::new(stream)) })
            }
            types::MODULE_2 => Ok(Value { kind: Kind::Module, rest: Rest::Module }),
            types::MODULE_1 => {
                Err(source.error(Problem::NotOffered("a value of a module, in its oldest form")))
            }
            code if types::HASH_EXPIRING.contains(&code) => {
                Err(source.error(Problem::NotOffered("a hash whose fields expire by themselves")))
            }
            code => Err(source.error(Problem::UnknownType(code))),
        }
    }

    /// The next piece, which is not empty; `None` after the last one.
    pub fn next_piece<R: BufRead>(
        &mut self,
        source: &mut Source<R>,
    ) -> Result<Option<Piece>, RdbError> {
        match &mut self.rest {
            Rest::Nothing => Ok(None),
            Rest::Items(shape, items) => items.piece(source, *shape),
            Rest::Stream(stream) => stream.next_piece(source),
            Rest::String => {
                self.rest = Rest::Nothing;
                Ok(Some(Piece::String(source.string()?)))
            }
            Rest::Module => {
                self.rest = Rest::Nothing;
                Ok(Some(Piece::Module(skip_module(source)?)))
            }
        }
    }
}

impl Place {
    fn read<R: BufRead>(source: &mut Source<R>, form: Form) -> Result<Place, RdbError> {
        let offset = source.offset();
        let opened = Packed::open(form, source.string()?);
        let failed = |why| RdbError { offset, problem: Problem::Corrupt(why) };
        Ok(Place { packed: opened.map_err(failed)?, offset })
    }

    fn element(&mut self) -> Result<Option<Atom<'_>>, RdbError> {
        let offset = self.offset;
        self.packed.element().map_err(|why| RdbError { offset, problem: Problem::Corrupt(why) })
    }
}

impl Items {
    fn piece<R: BufRead>(
        &mut self,
        source: &mut Source<R>,
        shape: Shape,
    ) -> Result<Option<Piece>, RdbError> {
        match shape {
            Shape::Elements => Ok(self.singles(source)?.map(Piece::Elements)),
            Shape::Members => Ok(self.singles(source)?.map(Piece::Members)),
            Shape::Fields => {
                let fields = self.some(source, |items, source| {
                    let Some(field) = items.item(source)? else { return Ok(None) };
                    let value = items.second(source)?;
                    Ok(Some((field.len() + value.len(), (field, value))))
                })?;
                Ok(fields.map(Piece::Fields))
            }
            Shape::ScoredOld | Shape::ScoredDouble | Shape::ScoredPacked => {
                let scored = self.some(source, |items, source| {
                    let Some(member) = items.item(source)? else { return Ok(None) };
                    let score = match shape {
                        Shape::ScoredOld => source.score_text()?,
                        Shape::ScoredDouble => source.double()?,
                        _ => match resp::double::parse(&items.second(source)?) {
                            Some(score) => score,
                            None => return source.corrupt("a score is no number"),
                        },
                    };
                    if score.is_nan() {
                        return source.corrupt("a score is not a number");
                    }
                    Ok(Some((member.len() + 8, (member, score))))
                })?;
                Ok(scored.map(Piece::Scored))
            }
        }
    }

    fn singles<R: BufRead>(
        &mut self,
        source: &mut Source<R>,
    ) -> Result<Option<Vec<Vec<u8>>>, RdbError> {
        self.some(source, |items, source| Ok(items.item(source)?.map(|item| (item.len(), item))))
    }

    /// What `take` finds, until it is a piece or `take` finds nothing. It says its bytes, too.
    fn some<R: BufRead, T>(
        &mut self,
        source: &mut Source<R>,
        mut take: impl FnMut(&mut Items, &mut Source<R>) -> Result<Option<(usize, T)>, RdbError>,
    ) -> Result<Option<Vec<T>>, RdbError> {
        let (mut found, mut bytes) = (Vec::new(), 0);
        while bytes < PIECE_BYTES && found.len() < PIECE_ITEMS {
            let Some((more, item)) = take(self, source)? else { break };
            bytes += more;
            found.push(item);
        }
        Ok((!found.is_empty()).then_some(found))
    }

    /// The next item, which for the plain form is the first of those that are counted together.
    fn item<R: BufRead>(&mut self, source: &mut Source<R>) -> Result<Option<Vec<u8>>, RdbError> {
        match self {
            Items::Plain { left: 0 } => Ok(None),
            Items::Plain { left } => {
                *left -= 1;
                source.string().map(Some)
            }
            Items::Packed(place) => Ok(place.element()?.map(Atom::to_text)),
            Items::Nodes { left, plain_too, node } => loop {
                if let Some(place) = node {
                    if let Some(atom) = place.element()? {
                        return Ok(Some(atom.to_text()));
                    }
                    *node = None;
                }
                if *left == 0 {
                    return Ok(None);
                }
                *left -= 1;
                let form = match (*plain_too).then(|| source.length()).transpose()? {
                    None => Form::Ziplist,
                    Some(NODE_PACKED) => Form::Listpack,
                    Some(NODE_PLAIN) => return source.string().map(Some),
                    Some(_) => {
                        return source.corrupt("a node of a list has a form that is not known");
                    }
                };
                *node = Some(Place::read(source, form)?);
            },
        }
    }

    /// The item that belongs to the one before.
    fn second<R: BufRead>(&mut self, source: &mut Source<R>) -> Result<Vec<u8>, RdbError> {
        match self {
            Items::Plain { .. } => source.string(),
            Items::Packed(_) | Items::Nodes { .. } => match self.item(source)? {
                Some(item) => Ok(item),
                None => {
                    source.corrupt("a packed collection of pairs has an odd number of elements")
                }
            },
        }
    }
}

const MODULE_END: u64 = 0;
const MODULE_SIGNED: u64 = 1;
const MODULE_UNSIGNED: u64 = 2;
const MODULE_FLOAT: u64 = 3;
const MODULE_DOUBLE: u64 = 4;
const MODULE_STRING: u64 = 5;

/// Reads over the value of a module, and says which one it is.
fn skip_module<R: BufRead>(source: &mut Source<R>) -> Result<String, RdbError> {
    let id = source.length()?;
    skip_module_fields(source)?;
    Ok(module_name(id))
}

pub fn skip_module_fields<R: BufRead>(source: &mut Source<R>) -> Result<(), RdbError> {
    loop {
        match source.length()? {
            MODULE_END => return Ok(()),
            MODULE_SIGNED | MODULE_UNSIGNED => _ = source.length()?,
            MODULE_FLOAT => _ = source.array::<4>()?,
            MODULE_DOUBLE => _ = source.array::<8>()?,
            MODULE_STRING => _ = source.string()?,
            _ => return source.corrupt("the value of a module has a field that is not known"),
        }
    }
}

/// Nine characters of six bits each, and a version of ten bits.
pub fn module_name(id: u64) -> String {
    const CHARACTERS: &[u8; 64] =
        b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
    let character = |place: u32| CHARACTERS[(id >> (10 + 6 * place) & 63) as usize] as char;
    (0..9).rev().map(character).collect()
}
