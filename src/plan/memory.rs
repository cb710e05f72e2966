//! Placement of activations in one arena.

use std::ops::RangeInclusive;

/// Elements to which places are rounded: 64 bytes.
const GRAIN: usize = 16;

/// A piece of memory and the steps during which it is in use.
#[derive(Clone, Debug)]
pub(super) struct Block {
    pub(super) len: usize,
    pub(super) live: RangeInclusive<usize>,
}

/// Places blocks so that none that live at the same time overlap: largest first, each at the lowest
/// place that is free during its life (greedy by size, Pisarchyk and Lee, arXiv 2001.03288).
///
/// Returns each block's place and the arena's length, in elements.
pub(super) fn place(blocks: &[Block]) -> (Vec<usize>, usize) {
    let mut order: Vec<usize> = (0..blocks.len()).collect();
    order.sort_by_key(|&i| (std::cmp::Reverse(blocks[i].len), *blocks[i].live.start()));
    let mut places = vec![0; blocks.len()];
    let mut placed: Vec<usize> = Vec::with_capacity(blocks.len());
    let mut total = 0;
    for i in order {
        let block = &blocks[i];
        let meets = |j: &usize| {
            let (a, b) = (&block.live, &blocks[*j].live);
            a.start() <= b.end() && b.start() <= a.end()
        };
        // In order of place, so that the first gap that is wide enough is the lowest.
        let mut place = 0;
        for j in placed.iter().copied().filter(meets) {
            if place + block.len <= places[j] {
                break;
            }
            place = place.max((places[j] + blocks[j].len).next_multiple_of(GRAIN));
        }
        places[i] = place;
        total = total.max(place + block.len);
        let at = placed.partition_point(|&j| places[j] <= place);
        placed.insert(at, i);
    }
    (places, total.next_multiple_of(GRAIN))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_chain_needs_its_two_largest_neighbours() {
        let block = |len, from, to| Block { len, live: from..=to };
        let blocks = [block(64, 0, 1), block(160, 1, 2), block(32, 2, 3), block(96, 3, 4)];
        let (places, total) = place(&blocks);
        assert_eq!(total, 64 + 160);
        for (i, a) in blocks.iter().enumerate() {
            for (j, b) in blocks.iter().enumerate().skip(i + 1) {
                let apart = a.live.end() < b.live.start() || b.live.end() < a.live.start();
                let (pa, pb) = (places[i], places[j]);
                assert!(apart || pa + a.len <= pb || pb + b.len <= pa, "{i} and {j}");
            }
        }
    }
}
