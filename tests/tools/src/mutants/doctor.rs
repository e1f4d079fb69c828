//! Builds mutants into a source text, each behind a switch.
//!
//! A mutant replaces a piece of the source that may be no expression, such as an operator. So the smallest expression
//! around it is written twice, original and changed, and the switch chooses. The changed text contains no further
//! switches, since only one mutant is on at a time; this keeps the text from growing with the depth of an expression.
//!
//! | the mutant replaces | the copy contains |
//! |---|---|
//! | an operator, a `!`, a field of a struct expression | `(if mutant(n) { changed expression } else { … })` |
//! | a function's body | `if mutant(n) { return value; }` before it |
//! | a body that returns `impl Iterator` | both, boxed: the two have different types |
//! | a match arm, by nothing | a guard `if !mutant(n)` |
//! | a guard, by `true` or `false` | `mutant(n) \|\| …`, `!mutant(n) && …` |
//! | something in a constant | the same in a function that replaces the constant wherever it is used |
//!
//! A mutant in a `const fn`, or where the grammar allows no choice, has no `place` and is built by itself.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;

use proc_macro2::{Span, TokenStream, TokenTree};
use syn::spanned::Spanned;
use syn::visit::{self, Visit};
use syn::{Expr, Pat, ReturnType, Type, TypeParamBound};

/// The number of a mutant, in the switch and in the text's markers.
pub type Number = usize;

/// The source with one piece replaced.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Piece {
    pub number: Number,
    pub genre: Genre,
    /// The replaced piece, in bytes of its file.
    pub at: Range<usize>,
    pub instead: String,
}

/// What a mutant replaces, as cargo-mutants names it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Deserialize)]
#[expect(missing_docs, reason = "the names say it")]
pub enum Genre {
    FnValue,
    BinaryOperator,
    UnaryOperator,
    MatchArm,
    MatchArmGuard,
    StructField,
}

impl Piece {
    /// A stretch of the file with the piece replaced.
    pub fn applied(&self, text: &str, stretch: &Range<usize>) -> String {
        let (before, after) = (&text[stretch.start..self.at.start], &text[self.at.end..stretch.end]);
        format!("{before}{}{after}", self.instead)
    }
}

/// The places in a file where a choice is possible.
#[derive(Debug, Default)]
pub struct Places {
    /// The whole expression by the start of its operator; `None` if it contains a `let`.
    operators: BTreeMap<usize, Option<Range<usize>>>,
    structs: Vec<Range<usize>>,
    bodies: BTreeMap<usize, Body>,
    arms: BTreeMap<usize, Arm>,
    guards: BTreeMap<usize, Range<usize>>,
    /// Items that are evaluated at compile time: no choice is possible in them,
    fixed: Vec<Range<usize>>,
    /// except that constants can become functions.
    constants: Vec<Constant>,
    uses: Vec<Range<usize>>,
    /// The outermost binary expression around the current node.
    outer: Option<Range<usize>>,
}

#[derive(Debug)]
struct Body {
    inside: Range<usize>,
    /// The returned `impl` type, which has to be boxed.
    boxed: Option<String>,
}

#[derive(Debug)]
struct Arm {
    pattern: Range<usize>,
    guard: Option<Range<usize>>,
}

#[derive(Debug)]
struct Constant {
    name: String,
    whole: Range<usize>,
    head: Range<usize>,
    semicolon: Range<usize>,
    of: String,
    mentions: BTreeSet<String>,
}

/// The place of a mutant's choice.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
enum Place {
    Body(Stretch),
    Arm(usize),
    Guard(Stretch),
    Expression(Stretch),
}

/// Start and end in bytes: a range that can be ordered.
type Stretch = (usize, usize);

fn stretch(range: &Range<usize>) -> Stretch {
    (range.start, range.end)
}

impl Places {
    pub fn of(text: &str) -> syn::Result<Self> {
        let mut places = Self::default();
        places.visit_file(&syn::parse_file(text)?);
        Ok(places)
    }

    fn find(&self, piece: &Piece) -> Option<Place> {
        if self.fixed.iter().any(|fixed| fixed.start <= piece.at.start && piece.at.end <= fixed.end) {
            return None;
        }
        let at = piece.at.start;
        match piece.genre {
            Genre::BinaryOperator | Genre::UnaryOperator => {
                self.operators.get(&at)?.as_ref().map(|whole| Place::Expression(stretch(whole)))
            }
            Genre::StructField => {
                let around =
                    self.structs.iter().filter(|whole| whole.start <= at && piece.at.end <= whole.end);
                around.min_by_key(|whole| whole.len()).map(|whole| Place::Expression(stretch(whole)))
            }
            Genre::FnValue => self.bodies.get(&at).map(|body| Place::Body(stretch(&body.inside))),
            Genre::MatchArm => self.arms.get(&at).map(|arm| match &arm.guard {
                Some(guard) => Place::Guard(stretch(guard)),
                None => Place::Arm(arm.pattern.end),
            }),
            Genre::MatchArmGuard => self.guards.get(&at).map(|guard| Place::Guard(stretch(guard))),
        }
    }

    /// Constants that contain one of these pieces.
    pub fn constants_with(&self, pieces: &[Piece]) -> BTreeSet<String> {
        let holds = |one: &&Constant| {
            pieces.iter().any(|piece| one.whole.start <= piece.at.start && piece.at.end <= one.whole.end)
        };
        self.constants.iter().filter(holds).map(|one| one.name.clone()).collect()
    }

    /// Constants that use one of these constants.
    pub fn constants_of(&self, names: &BTreeSet<String>) -> BTreeSet<String> {
        let made = self.constants.iter().filter(|one| !one.mentions.is_disjoint(names));
        made.map(|one| one.name.clone()).collect()
    }
}

fn has_let(expression: &Expr) -> bool {
    match expression {
        Expr::Let(_) => true,
        Expr::Binary(both) => has_let(&both.left) || has_let(&both.right),
        _ => false,
    }
}

fn words(tokens: TokenStream, found: &mut Vec<(String, Range<usize>)>) {
    for tree in tokens {
        match tree {
            TokenTree::Group(group) => words(group.stream(), found),
            TokenTree::Ident(word) => found.push((word.to_string(), word.span().byte_range())),
            TokenTree::Punct(_) | TokenTree::Literal(_) => {}
        }
    }
}

fn texts(tokens: TokenStream, found: &mut Vec<Range<usize>>) {
    for tree in tokens {
        match tree {
            TokenTree::Group(group) => texts(group.stream(), found),
            TokenTree::Literal(text) => found.push(text.span().byte_range()),
            TokenTree::Punct(_) | TokenTree::Ident(_) => {}
        }
    }
}

impl Places {
    fn body(&mut self, signature: &syn::Signature, whole: Span, block: &syn::Block) {
        if signature.constness.is_some() {
            self.fixed.push(whole.byte_range());
        }
        let (Some(first), Some(last)) = (block.stmts.first(), block.stmts.last()) else { return };
        let inside = first.span().byte_range().start..last.span().byte_range().end;
        let boxed = match &signature.output {
            ReturnType::Type(_, of) => match &**of {
                Type::ImplTrait(of) => {
                    let bounds = of.bounds.iter().filter(|bound| matches!(bound, TypeParamBound::Trait(_)));
                    bounds.map(|bound| quote::quote!(#bound).to_string()).next()
                }
                _ => None,
            },
            ReturnType::Default => None,
        };
        self.bodies.insert(inside.start, Body { inside, boxed });
    }

    fn constant(&mut self, name: &syn::Ident, whole: Span, parts: [Span; 3], of: &Type, value: &Expr) {
        let [start, equals, semicolon] = parts.map(|part| part.byte_range());
        let mut mentions = Vec::new();
        words(quote::quote!(#value), &mut mentions);
        let of = quote::quote!(#of).to_string();
        self.constants.push(Constant {
            name: name.to_string(),
            whole: whole.byte_range(),
            head: start.start..equals.end,
            semicolon,
            // References in constants are implicitly `'static`.
            of: of.replace("& '", "&'").replace("& ", "&'static "),
            mentions: mentions.into_iter().map(|(word, _)| word).collect(),
        });
    }
}

impl<'ast> Visit<'ast> for Places {
    fn visit_item_fn(&mut self, node: &'ast syn::ItemFn) {
        self.body(&node.sig, node.span(), &node.block);
        visit::visit_item_fn(self, node);
    }

    fn visit_impl_item_fn(&mut self, node: &'ast syn::ImplItemFn) {
        self.body(&node.sig, node.span(), &node.block);
        visit::visit_impl_item_fn(self, node);
    }

    fn visit_trait_item_fn(&mut self, node: &'ast syn::TraitItemFn) {
        if let Some(block) = &node.default {
            self.body(&node.sig, node.span(), block);
        }
        visit::visit_trait_item_fn(self, node);
    }

    fn visit_item_const(&mut self, node: &'ast syn::ItemConst) {
        let parts = [node.const_token.span(), node.eq_token.span(), node.semi_token.span()];
        self.constant(&node.ident, node.span(), parts, &node.ty, &node.expr);
        visit::visit_item_const(self, node);
    }

    fn visit_impl_item_const(&mut self, node: &'ast syn::ImplItemConst) {
        let parts = [node.const_token.span(), node.eq_token.span(), node.semi_token.span()];
        self.constant(&node.ident, node.span(), parts, &node.ty, &node.expr);
        visit::visit_impl_item_const(self, node);
    }

    fn visit_item_static(&mut self, node: &'ast syn::ItemStatic) {
        self.fixed.push(node.span().byte_range());
        visit::visit_item_static(self, node);
    }

    fn visit_item_use(&mut self, node: &'ast syn::ItemUse) {
        self.uses.push(node.span().byte_range());
    }

    fn visit_expr(&mut self, node: &'ast Expr) {
        // Any other node ends the chain of binary operators.
        if !matches!(node, Expr::Binary(_)) {
            let outer = self.outer.take();
            visit::visit_expr(self, node);
            self.outer = outer;
        } else {
            visit::visit_expr(self, node);
        }
    }

    fn visit_expr_binary(&mut self, node: &'ast syn::ExprBinary) {
        let operator = node.op.span();
        let outer = self.outer.take();
        let whole = if has_let(&node.left) || has_let(&node.right) {
            None
        } else {
            // Another operator may bind differently: the choice is between the whole chains.
            Some(outer.clone().unwrap_or_else(|| node.span().byte_range()))
        };
        self.operators.insert(operator.byte_range().start, whole.clone());
        for side in [&node.left, &node.right] {
            self.outer = whole.clone();
            self.visit_expr(side);
        }
        self.outer = outer;
    }

    fn visit_expr_unary(&mut self, node: &'ast syn::ExprUnary) {
        self.operators.insert(node.op.span().byte_range().start, Some(node.span().byte_range()));
        visit::visit_expr_unary(self, node);
    }

    fn visit_expr_struct(&mut self, node: &'ast syn::ExprStruct) {
        self.structs.push(node.span().byte_range());
        visit::visit_expr_struct(self, node);
    }

    fn visit_arm(&mut self, node: &'ast syn::Arm) {
        let (pattern, guard) = match &node.pat {
            Pat::Guard(guarded) => (guarded.pat.span().byte_range(), Some(guarded.guard.span().byte_range())),
            other => (other.span().byte_range(), None),
        };
        if let Some(guard) = &guard {
            self.guards.insert(guard.start, guard.clone());
        }
        self.arms.insert(pattern.start, Arm { pattern, guard });
        visit::visit_arm(self, node);
    }
}

/// Text that is put around a stretch, or replaces it.
struct Edit {
    at: Range<usize>,
    before: String,
    instead: Option<String>,
    after: String,
}

impl Edit {
    fn around(at: Range<usize>, before: String, after: impl Into<String>) -> Self {
        Self { at, before, instead: None, after: after.into() }
    }

    fn in_place_of(at: Range<usize>, text: impl Into<String>) -> Self {
        Self { at, before: String::new(), instead: Some(text.into()), after: String::new() }
    }
}

/// A file with mutants in it, each behind its switch.
#[derive(Debug)]
pub struct Doctored {
    pub text: String,
    pub left: Vec<Number>,
}

/// Builds mutants into a file. Markers around each text let [`blamed`] find the mutant of a compiler error.
pub fn doctored(text: &str, pieces: &[Piece]) -> syn::Result<Doctored> {
    let places = Places::of(text)?;
    let mut left = Vec::new();
    let mut by_place: BTreeMap<Place, Vec<&Piece>> = BTreeMap::new();
    for piece in pieces {
        match places.find(piece) {
            Some(place) => by_place.entry(place).or_default().push(piece),
            None => left.push(piece.number),
        }
    }
    // Of two places with the same stretch, the first is the outer one.
    let edits: Vec<_> = by_place.iter().map(|(place, pieces)| choice(text, &places, place, pieces)).collect();
    Ok(Doctored { text: written(text, edits), left })
}

fn on(piece: &Piece) -> String {
    format!("crate::mutant({})", piece.number)
}

fn marked(piece: &Piece, text: &str) -> String {
    format!("/*<{number}*/ {text} /*{number}>*/", number = piece.number)
}

fn choice(text: &str, places: &Places, place: &Place, pieces: &[&Piece]) -> Edit {
    let numbers = pieces.iter().map(|piece| piece.number.to_string()).collect::<Vec<_>>().join(",");
    let (open, close) = (format!("/*[{numbers}*/ "), format!(" /*{numbers}]*/"));
    match place {
        Place::Expression((start, end)) => {
            let whole = *start..*end;
            let mut before = format!("{open}(");
            for piece in pieces {
                let mutated = marked(piece, &piece.applied(text, &whole));
                before.push_str(&format!("if {} {{ {mutated} }} else ", on(piece)));
            }
            Edit::around(whole, before + "{ ", format!(" }}){close}"))
        }
        Place::Body((start, end)) => {
            let inside = *start..*end;
            let boxed = places.bodies.get(&inside.start).and_then(|body| body.boxed.as_deref());
            let mut before = open;
            let Some(bound) = boxed else {
                for piece in pieces {
                    let value = marked(piece, &format!("return {};", piece.instead));
                    before.push_str(&format!("if {} {{ {value} }} ", on(piece)));
                }
                return Edit::around(inside, before, close);
            };
            before.push_str(&format!("let chosen: Box<dyn {bound} + '_> = "));
            for piece in pieces {
                let value = marked(piece, &format!("Box::new({})", piece.instead));
                before.push_str(&format!("if {} {{ {value} }} else ", on(piece)));
            }
            Edit::around(inside, before + "{ Box::new({ ", format!(" }}) }}; chosen{close}"))
        }
        Place::Arm(end) => {
            let off: Vec<_> = pieces.iter().map(|piece| format!("!{}", on(piece))).collect();
            Edit::around(*end..*end, format!(" if {open}{}{close} ", off.join(" && ")), "")
        }
        Place::Guard((start, end)) => {
            let (mut before, mut after) = (open, String::new());
            for piece in pieces {
                let word = match (piece.genre, piece.instead.as_str()) {
                    (Genre::MatchArmGuard, "true") => format!("{} || (", on(piece)),
                    _ => format!("!{} && (", on(piece)),
                };
                before.push_str(&word);
                after.push(')');
            }
            Edit::around(*start..*end, before, after + &close)
        }
    }
}

/// The text with the edits applied; of two with the same stretch the earlier is the outer one.
fn written(text: &str, mut edits: Vec<Edit>) -> String {
    edits.sort_by_key(|edit| (edit.at.start, !edit.at.is_empty(), std::cmp::Reverse(edit.at.end)));
    let mut copy = String::with_capacity(text.len() * 4);
    write(text, 0..text.len(), &mut edits.into_iter().peekable(), &mut copy);
    copy
}

fn write(
    text: &str,
    stretch: Range<usize>,
    edits: &mut std::iter::Peekable<std::vec::IntoIter<Edit>>,
    copy: &mut String,
) {
    let mut from = stretch.start;
    while let Some(edit) = edits.next_if(|edit| edit.at.start < stretch.end || edit.at == stretch) {
        copy.push_str(&text[from..edit.at.start]);
        from = edit.at.end;
        copy.push_str(&edit.before);
        match &edit.instead {
            Some(instead) => copy.push_str(instead),
            None => write(text, edit.at, edits, copy),
        }
        copy.push_str(&edit.after);
    }
    copy.push_str(&text[from..stretch.end]);
}

/// Turns these constants of a file into functions, and their uses into calls.
pub fn without_constants(text: &str, names: &BTreeSet<String>) -> syn::Result<String> {
    if !names.iter().any(|name| text.contains(name)) {
        return Ok(text.to_owned());
    }
    let places = Places::of(text)?;
    let mut edits = Vec::new();
    let mut heads = places.uses;
    for one in places.constants.into_iter().filter(|one| names.contains(&one.name)) {
        edits.push(Edit::in_place_of(one.head.clone(), format!("fn {}() -> {} {{", one.name, one.of)));
        edits.push(Edit::in_place_of(one.semicolon, " }"));
        heads.push(one.head);
    }
    let mut found = Vec::new();
    words(text.parse()?, &mut found);
    let mut literals = Vec::new();
    texts(text.parse()?, &mut literals);
    for at in literals {
        for name in names.iter().filter(|name| text[at.clone()].contains(&format!("{{{name}}}"))) {
            // A format string may name a constant without a path.
            edits.push(Edit::in_place_of(at.end..at.end, format!(", {name} = {name}()")));
        }
    }
    for (word, at) in found {
        if names.contains(&word) && !heads.iter().any(|head| head.start <= at.start && at.end <= head.end) {
            edits.push(Edit::in_place_of(at, format!("{word}()")));
        }
    }
    Ok(written(text, edits))
}

/// The mutants that may have caused a compiler error at this byte of a changed text: the one whose text contains it,
/// otherwise all that share the innermost choice around it.
pub fn blamed(text: &str, at: usize) -> BTreeSet<Number> {
    let numbers = |list: &str| list.split(',').filter_map(|number| number.parse().ok()).collect();
    let before = &text[..at.min(text.len())];
    if let Some((_, own)) = before.rsplit_once("/*<")
        && let Some((number, _)) = own.split_once("*/")
        && !own.contains(&format!("/*{number}>*/"))
    {
        return numbers(number);
    }
    let around = before.rmatch_indices("/*[").filter_map(|(open, _)| {
        let (list, inside) = before[open + 3..].split_once("*/")?;
        (!inside.contains(&format!("/*{list}]*/"))).then_some(list)
    });
    around.map(numbers).next().unwrap_or_default()
}

/// For the match whose subject is at this byte, the last arm that can be switched off: without it the match may not be
/// exhaustive.
pub fn last_arm(text: &str, at: usize) -> Option<Number> {
    struct Last<'t>(&'t str, usize, Option<Number>);
    impl<'ast> Visit<'ast> for Last<'_> {
        fn visit_expr_match(&mut self, node: &'ast syn::ExprMatch) {
            if node.expr.span().byte_range().contains(&self.1) {
                let mut numbers = node.arms.iter().filter_map(|arm| {
                    let Pat::Guard(guarded) = &arm.pat else { return None };
                    let guard = &self.0[guarded.guard.span().byte_range()];
                    guard.strip_prefix("!crate::mutant(")?.split(')').next()?.parse().ok()
                });
                self.2 = numbers.next_back();
            }
            visit::visit_expr_match(self, node);
        }
    }
    let mut last = Last(text, at, None);
    last.visit_file(&syn::parse_file(text).ok()?);
    last.2
}
