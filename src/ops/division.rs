//! How a step's work is divided: over the team when the plan is made, and once more as it runs.
//!
//! A plan gives each member a share, of pixels or of output channels, by what they make it read. A member walks its
//! share unit by unit, a block of pixels and a panel at a time; done with it, it takes units that are left of others'
//! (see [`Queue`](crate::threads::Queue)): a core that another process disturbs, or a slow kind of core, holds nobody up
//! for longer than a unit takes. Who computes a unit changes nothing in its result.

use std::ops::Range;

use skipstone_kernels::sconv::MR;

use super::Worker;
use crate::threads::{Queue, share};

/// What members have shares of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Division {
    /// Pixels: every member reads all weights.
    Pixels,
    /// Output channels: every member reads all of the source.
    Channels,
}

/// How a step divides its work over the team: `pixels * channels` members.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Split {
    pub(crate) pixels: usize,
    pub(crate) channels: usize,
}

/// Multiply-accumulates in f32 that take as long as moving a byte, roughly.
const MACS_PER_BYTE: f64 = 8.0;

/// What a step has to divide.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Work {
    pub(crate) pixels: usize,
    /// Pixels of a register tile.
    pub(crate) tile: usize,
    /// Panels of output channels.
    pub(crate) panels: usize,
    /// Bytes of all weights and of the source.
    pub(crate) weights: u64,
    pub(crate) src: u64,
    /// The time that all arithmetic takes, as the bytes that are moved in it.
    pub(crate) arithmetic: f64,
}

impl Work {
    /// The work of a convolution in f32.
    pub(crate) fn f32(pixels: usize, panels: usize, weights: u64, src: u64) -> Self {
        let macs = weights as f64 / size_of::<f32>() as f64 * pixels as f64;
        Self { pixels, tile: MR, panels, weights, src, arithmetic: macs / MACS_PER_BYTE }
    }
}

impl Split {
    /// The division that is asked for, or else the best by [`Self::choose`].
    pub(super) fn of(division: Option<Division>, members: usize, work: &Work) -> Self {
        match division {
            Some(Division::Pixels) => Self { pixels: members, channels: 1 },
            Some(Division::Channels) => Self { pixels: 1, channels: members },
            None => Self::choose(members, work),
        }
    }

    /// Chooses the division that moves the fewest bytes: dividing pixels makes every member read all
    /// weights, dividing channels makes every member read all of the source. Unequal shares count
    /// as the time they waste.
    pub(crate) fn choose(members: usize, work: &Work) -> Self {
        let cost = |s: &Self| {
            let bytes = work.weights * s.pixels as u64 + work.src * s.channels as u64;
            // The longest share, relative to an equal one.
            let waste =
                |units: usize, parts: usize| (units.div_ceil(parts) * parts) as f64 / units as f64;
            let imbalance =
                waste(work.pixels.div_ceil(work.tile), s.pixels) * waste(work.panels, s.channels);
            work.arithmetic * imbalance + bytes as f64
        };
        let divisors = (1..=members).filter(|p| members.is_multiple_of(*p));
        let splits = divisors.map(|p| Self { pixels: p, channels: members / p });
        splits.min_by(|a, b| cost(a).total_cmp(&cost(b))).unwrap_or(Self { pixels: 1, channels: 1 })
    }

    /// Name in plan dumps.
    pub(crate) fn name(self) -> &'static str {
        match (self.pixels, self.channels) {
            (1, 1) => "none",
            (_, 1) => "pixels",
            (1, _) => "channels",
            _ => "grid",
        }
    }

    /// A member's pixels (in whole tiles of `tile`) and panels.
    pub(crate) fn part(
        self,
        member: usize,
        (pixels, tile): (usize, usize),
        panels: usize,
    ) -> (Range<usize>, Range<usize>) {
        if member >= self.pixels * self.channels {
            return (0..0, 0..0);
        }
        let tiles = share(pixels.div_ceil(tile), member / self.channels, self.pixels);
        let panels = share(panels, member % self.channels, self.channels);
        (tiles.start * tile..(tiles.end * tile).min(pixels), panels)
    }
}

/// Divides pixels into equal blocks of about `block`, in whole register tiles: a short last one would read all
/// weights for little.
fn blocks(pixels: Range<usize>, block: usize) -> impl Iterator<Item = Range<usize>> {
    let tiles = pixels.len().div_ceil(MR);
    let per_block = (block / MR).max(1);
    let nb_blocks = ((tiles + per_block / 2) / per_block).max(1);
    (0..nb_blocks).map(move |i| {
        let part = share(tiles, i, nb_blocks);
        let end = (pixels.start + part.end * MR).min(pixels.end);
        (pixels.start + part.start * MR).min(end)..end
    })
}

/// All members' shares of a step's work.
pub(crate) struct Shares {
    members: Vec<Share>,
    /// Fewest units left of another's share for which a member takes over any.
    least: usize,
    longest_block: usize,
    most_panels: usize,
}

/// One member's: these blocks of pixels by these panels, block by block.
struct Share {
    blocks: Vec<Range<usize>>,
    panels: Range<usize>,
}

impl Shares {
    /// Shares by `split` of pixels, in whole tiles of `tile` and in blocks of about `block`, and of panels.
    pub(crate) fn new(
        split: Split,
        (pixels, tile): (usize, usize),
        panels: usize,
        block: usize,
    ) -> Self {
        let share = |member| {
            let (pixels, panels) = split.part(member, (pixels, tile), panels);
            let blocks = blocks(pixels, block).filter(|block| !block.is_empty());
            Share { blocks: blocks.collect(), panels }
        };
        let members: Vec<_> = (0..split.pixels * split.channels).map(share).collect();
        let lengths = members.iter().flat_map(|share| &share.blocks).map(Range::len);
        let longest_block = lengths.max().unwrap_or(0);
        let most_panels = members.iter().map(|share| share.panels.len()).max().unwrap_or(0);
        Self { members, least: 1, longest_block, most_panels }
    }

    /// The same where taking over a block costs as much as `least` units of it.
    pub(crate) fn with_least(self, least: usize) -> Self {
        Self { least, ..self }
    }

    /// Pixels of the longest block.
    pub(crate) fn longest_block(&self) -> usize {
        self.longest_block
    }

    /// Most blocks of a member.
    pub(crate) fn most_blocks(&self) -> usize {
        self.members.iter().map(|share| share.blocks.len()).max().unwrap_or(0)
    }

    /// Most panels of a member.
    pub(crate) fn most_panels(&self) -> usize {
        self.most_panels
    }

    /// Units of a member's share.
    pub(crate) fn units(&self, member: usize) -> usize {
        self.members.get(member).map_or(0, |share| share.blocks.len() * share.panels.len())
    }

    /// The units that this member computes, its own ones first.
    pub(crate) fn turns<'a>(&'a self, worker: &Worker<'a>) -> Turns<'a> {
        let (member, queues) = (worker.member, worker.queues);
        Turns { shares: self, queues, member, owner: member, taken: 0..0, block: None }
    }
}

/// What a member computes at a time.
pub(crate) struct Unit {
    /// Pixels.
    pub(crate) block: Range<usize>,
    /// Whether the unit before was of another block, or there was none.
    pub(crate) is_new_block: bool,
    pub(crate) panel: usize,
    /// The panel that follows in this block, most likely by this member.
    pub(crate) next: Option<usize>,
    /// Whether this member computed this panel for an earlier block.
    pub(crate) again: bool,
}

/// Takes units; see [`Shares::turns`].
pub(crate) struct Turns<'a> {
    shares: &'a Shares,
    queues: &'a [Queue],
    member: usize,
    /// Whose units were taken, and which of them remain to be computed.
    owner: usize,
    taken: Range<usize>,
    /// Where the last unit's block starts: all members' blocks that start with the same pixel are equal.
    block: Option<usize>,
}

impl Turns<'_> {
    fn take_units(&self) -> Option<(usize, Range<usize>)> {
        if let Some(units) = self.queues[self.member].take() {
            return Some((self.member, units));
        }
        let Shares { members, least, .. } = self.shares;
        loop {
            let left = |owner: &usize| self.queues[*owner].len();
            let owner = (0..members.len()).max_by_key(left).filter(|o| left(o) >= *least)?;
            if let Some(units) = self.queues[owner].take_back(members[owner].panels.len()) {
                return Some((owner, units));
            }
        }
    }
}

impl Iterator for Turns<'_> {
    type Item = Unit;

    fn next(&mut self) -> Option<Unit> {
        if self.taken.is_empty() {
            (self.owner, self.taken) = self.take_units()?;
        }
        let unit = self.taken.next()?;
        let Share { blocks, panels } = &self.shares.members[self.owner];
        let (i, panel) = (unit / panels.len(), panels.start + unit % panels.len());
        let block = blocks[i].clone();
        Some(Unit {
            is_new_block: self.block.replace(block.start) != Some(block.start),
            block,
            panel,
            next: Some(panel + 1).filter(|next| *next < panels.end),
            // Others take from the end, so all units before are its own.
            again: i > 0 && self.owner == self.member,
        })
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    const SPLITS: [Split; 4] = [
        Split { pixels: 1, channels: 1 },
        Split { pixels: 4, channels: 1 },
        Split { pixels: 1, channels: 4 },
        Split { pixels: 2, channels: 2 },
    ];

    /// What members compute that take turns in this order until nothing is left, as pixels x panels.
    fn walk(shares: &Shares, order: &[usize], size: (usize, usize)) -> Vec<Vec<usize>> {
        let queues: Vec<_> = (0..shares.members.len()).map(|_| Queue::new()).collect();
        for (member, queue) in queues.iter().enumerate() {
            queue.fill(shares.units(member));
        }
        let turns = |&member: &usize| {
            let queues = &queues[..];
            (member, Turns { shares, queues, member, owner: member, taken: 0..0, block: None })
        };
        let mut members: Vec<_> = order.iter().map(turns).collect();
        let mut counts = vec![vec![0; size.1]; size.0];
        // Of each member, the blocks of which it computed each panel.
        let mut own = vec![vec![0; size.1]; queues.len()];
        while !members.is_empty() {
            members.retain_mut(|(member, turns)| {
                let Some(unit) = turns.next() else { return false };
                assert!(!unit.again || own[*member][unit.panel] > 0);
                own[*member][unit.panel] += 1;
                unit.block.for_each(|pixel| counts[pixel][unit.panel] += 1);
                true
            });
        }
        counts
    }

    #[test]
    fn each_unit_is_computed_once_whoever_is_late() {
        for split in SPLITS {
            for (pixels, panels, block) in [(1, 1, 6), (49, 7, 12), (200, 3, 48), (60, 16, 600)] {
                let shares = Shares::new(split, (pixels, MR), panels, block);
                let members: Vec<_> = (0..shares.members.len()).collect();
                let mut orders = vec![members.clone()];
                // One does all that is not its own, too.
                orders.extend(members.iter().map(|member| vec![*member]));
                for order in orders {
                    let counts = walk(&shares, &order, (pixels, panels));
                    assert!(counts.iter().flatten().all(|n| *n == 1), "{split:?} {order:?}");
                }
            }
        }
    }

    #[test]
    fn what_is_not_worth_it_is_left() {
        let split = Split { pixels: 2, channels: 1 };
        let shares = Shares::new(split, (24, MR), 4, 12).with_least(5);
        let counts = walk(&shares, &[1], (24, 4));
        assert_eq!(counts, [vec![vec![0; 4]; 12], vec![vec![1; 4]; 12]].concat());
    }
}
