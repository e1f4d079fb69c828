//! Changes that come to be as one, page by page. Not sled's: see `vendor/README.md`.

use std::num::NonZeroU64;

use crate::{tree::View, *};

/// Past so many changes a leaf is written as a whole: sled would do that at the tenth anyway.
const LINKS: usize = 3;

/// Fewer entries than these are merged with what stands to their left, see `Node::should_merge`.
const LEAST: usize = 4;

impl Tree {
    /// Lets `write` make changes that come to be as one, like a batch, but in its own order and with a look at what each
    /// replaces. All changes in turn to one leaf are written together, and no page is left too large or too small
    /// for the next reader to mend.
    pub fn apply_noting(
        &self,
        write: impl FnOnce(&mut Writing<'_>) -> Result<()>,
    ) -> Result<()> {
        let _cc = concurrency_control::write();
        let guard = pin();
        let peg = self.context.pin_log(&guard)?;
        let mut writing =
            Writing { tree: self, guard: &guard, leaf: None, changed: vec![] };
        write(&mut writing)?;
        if let Some(leaf) = writing.leaf.take() {
            writing.put_back(leaf)?;
        }
        let changed = writing.changed;
        peg.seal_batch()?;
        for key in changed {
            self.view_for_key(&key, &guard)?;
        }
        Ok(())
    }
}

/// What [`Tree::apply_noting`] writes with.
pub struct Writing<'a> {
    tree: &'a Tree,
    guard: &'a Guard,
    leaf: Option<Leaf<'a>>,
    /// A key of each page that has changed.
    changed: Vec<IVec>,
}

/// The leaf that is being changed.
struct Leaf<'a> {
    /// As it stands.
    view: View<'a>,
    /// As it will be.
    node: Node,
    links: Vec<Link>,
    /// Where the last entry came, if it is a new one.
    newest: Option<usize>,
    /// It came just behind another new one, or behind all others: so will the next one.
    ascending: bool,
    last_key: IVec,
}

impl<'a> Writing<'a> {
    /// Sets a key, or deletes it. `note` is shown what stands there, before anything is changed.
    pub fn set(
        &mut self,
        key: &IVec,
        value: Option<IVec>,
        note: impl FnOnce(Option<&IVec>),
    ) -> Result<()> {
        let mut leaf = match self.leaf.take() {
            Some(leaf) if leaf.node.holds(key) => leaf,
            other => {
                if let Some(leaf) = other {
                    self.put_back(leaf)?;
                }
                Leaf::new(self.tree.view_for_key(key, self.guard)?)
            }
        };
        let (encoded_key, before) = leaf.node.node_kv_pair(key);
        note(before.as_ref());
        if value != before {
            leaf.change(encoded_key, value, before.is_none());
            leaf.last_key.clone_from(key);
        }
        if leaf.node.should_split() {
            return self.put_back(leaf);
        }
        self.leaf = Some(leaf);
        Ok(())
    }

    /// Writes what has become of a leaf.
    fn put_back(&mut self, mut leaf: Leaf<'a>) -> Result<()> {
        if leaf.links.is_empty() {
            return Ok(());
        }
        let (pid, old) = (leaf.view.pid, leaf.view.node_view.0);
        let pages = &self.tree.context.pagecache;
        let written = if leaf.node.should_split() {
            let entries = leaf.node.data.len();
            let at = match leaf.newest {
                Some(at) if leaf.ascending => (at + 1).clamp(entries / 2, entries - LEAST),
                _ => entries / 2,
            };
            let (mut left, right) = leaf.node.split_at(at);
            self.changed.push(right.lo.clone());
            let (right, _) = pages.allocate(right, self.guard)?;
            left.next = NonZeroU64::new(right);
            // Whoever comes by next enters the right one in the page above.
            pages.replace(pid, old, left, self.guard)?.is_ok()
        } else if leaf.links.len() > LINKS {
            pages.replace(pid, old, leaf.node, self.guard)?.is_ok()
        } else if leaf.links.len() == 1 {
            let link = leaf.links.remove(0);
            pages.link_applied(pid, old, link, leaf.node, self.guard)?.is_ok()
        } else {
            let mut view = Some(old);
            for link in leaf.links.drain(..) {
                let Some(old) = view else { break };
                view = pages.link(pid, old, link, self.guard)?.ok();
            }
            view.is_some()
        };
        if !written {
            return Err(Error::ReportableBug(
                "a page changed while nobody but a batch may write".into(),
            ));
        }
        self.changed.push(leaf.last_key);
        Ok(())
    }
}

impl<'a> Leaf<'a> {
    fn new(view: View<'a>) -> Self {
        let node = (*view).clone();
        let (newest, last_key) = (None, IVec::default());
        Self { view, node, links: vec![], newest, ascending: false, last_key }
    }

    fn change(&mut self, key: IVec, value: Option<IVec>, new: bool) {
        let link = match value {
            Some(value) => Link::Set(key, value),
            None => Link::Del(key),
        };
        self.node.apply(&link);
        let at = match &link {
            Link::Set(key, _) if new => self.node.position(key),
            _ => None,
        };
        self.ascending = at.is_some_and(|at| {
            at + 1 == self.node.data.len() || (at > 0 && self.newest == Some(at - 1))
        });
        self.newest = at;
        self.links.push(link);
    }
}
