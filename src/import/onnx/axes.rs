//! How an ONNX tensor's axes lie over a network's `N, C, H, W`.
//!
//! The network has one layout; ONNX graphs transpose, flatten and squeeze. An importer that keeps
//! book of which logical axes each ONNX axis runs over turns all of these into book-keeping: a
//! transpose permutes the map, a reshape regroups it.

use super::symbolic::{SymInt, list};
use crate::error::{Error, Result};
use crate::graph::{Axis, Shape};

/// For each axis of an ONNX tensor, the logical axes it runs over, outermost first.
///
/// An empty group is an axis of extent 1. A logical axis in no group has extent 1 at any input
/// size. `[N, C*H*W]` is `[[N], [C, H, W]]`.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct AxisMap(pub(super) Vec<Vec<Axis>>);

/// The extent of a logical axis.
pub(super) fn extent(axis: Axis, shape: Shape) -> SymInt {
    let of_size = |n: usize| SymInt { from_size: true, ..SymInt::known(n as i64) };
    match axis {
        Axis::N => SymInt::images(1),
        Axis::C => SymInt::known(shape.c as i64),
        Axis::H => of_size(shape.h),
        Axis::W => of_size(shape.w),
    }
}

impl AxisMap {
    /// One logical axis each.
    pub(super) fn of(axes: &[Axis]) -> Self {
        Self(axes.iter().map(|&a| vec![a]).collect())
    }

    pub(super) fn rank(&self) -> usize {
        self.0.len()
    }

    pub(super) fn contains(&self, axis: Axis) -> bool {
        self.0.iter().flatten().any(|a| *a == axis)
    }

    /// The ONNX axis that runs over `axis` alone.
    pub(super) fn position(&self, axis: Axis) -> Option<usize> {
        self.0.iter().position(|group| group == &[axis])
    }

    /// The ONNX tensor's extents.
    pub(super) fn dims(&self, shape: Shape) -> Vec<SymInt> {
        let product = |group: &Vec<Axis>| {
            let extents = group.iter().map(|&a| extent(a, shape));
            extents.fold(SymInt::known(1), |a, b| {
                a.mul(b).expect("N occurs once, and shapes are bounded")
            })
        };
        self.0.iter().map(product).collect()
    }

    /// Axis `i` of the result is axis `perm[i]`.
    pub(super) fn permuted(&self, perm: &[usize]) -> Self {
        Self(perm.iter().map(|&p| self.0[p].clone()).collect())
    }

    /// An ONNX axis as an index; negative ones count from the end.
    pub(super) fn index(&self, axis: i64) -> Result<usize> {
        resolve_axis(axis, self.rank())
    }

    /// Drops a logical axis that has become 1 at any input size.
    pub(super) fn drop_axis(&mut self, axis: Axis) {
        for group in &mut self.0 {
            group.retain(|a| *a != axis);
        }
    }

    /// The map of the same elements seen with the extents `target`.
    ///
    /// # Errors
    /// Extents that do not regroup whole logical axes.
    pub(super) fn reshaped(
        &self,
        shape: Shape,
        target: &[SymInt],
        batch: Option<i64>,
    ) -> Result<Self> {
        let mismatch = || {
            Error::unsupported(format!(
                "{} to {}: a reshape may merge whole axes or split merged ones, and must keep \
                 the batch",
                list(&self.dims(shape)),
                list(target)
            ))
        };
        let one = SymInt::known(1);
        let mut parts = Vec::new();
        for &axis in self.0.iter().flatten() {
            parts.push((axis, extent(axis, shape).at_batch(batch)?));
        }
        let mut parts = parts.into_iter().peekable();
        let mut groups = Vec::with_capacity(target.len());
        for want in target {
            let want = want.at_batch(batch)?;
            let mut group = Vec::new();
            if want.same(one) {
                // Which axis of extent 1 this is cannot matter, but keeping its name helps.
                group.extend(parts.next_if(|(_, e)| e.same(one)).map(|(axis, _)| axis));
            }
            let mut have = one;
            while !have.same(want) {
                let (axis, extent) = parts.next().ok_or_else(mismatch)?;
                have = have.mul(extent)?;
                group.push(axis);
            }
            groups.push(group);
        }
        for (axis, extent) in parts {
            if !extent.same(one) {
                return Err(mismatch());
            }
            groups.last_mut().ok_or_else(mismatch)?.push(axis);
        }
        Ok(Self(groups))
    }
}

/// How a flattened group of logical axes runs.
pub(super) struct FlattenOrder {
    /// `H, W, C` and not `C, H, W`.
    pub(super) channels_last: bool,
    /// Whether this is so at any input size, and not only where some extents are 1.
    pub(super) is_exact: bool,
}

/// The order of a group of logical axes, if [`Op::Flatten`](crate::graph::Op::Flatten) knows it.
pub(super) fn flatten_order(group: &[Axis], shape: Shape) -> Result<FlattenOrder> {
    let is_wide = |a: &Axis| !extent(*a, shape).same(SymInt::known(1));
    let wide: Vec<Axis> = group.iter().copied().filter(is_wide).collect();
    for (axes, is_exact) in [(group, true), (&wide, false)] {
        for channels_last in [false, true] {
            let order = match channels_last {
                false => [Axis::C, Axis::H, Axis::W],
                true => [Axis::H, Axis::W, Axis::C],
            };
            if axes.is_sorted_by_key(|a| order.iter().position(|o| o == a)) {
                return Ok(FlattenOrder { channels_last, is_exact });
            }
        }
    }
    Err(Error::unsupported(format!(
        "flattening axes in order {group:?}; only C, H, W and H, W, C are supported"
    )))
}

/// An ONNX axis of a tensor of `rank` axes as an index; negative ones count from the end.
pub(super) fn resolve_axis(axis: i64, rank: usize) -> Result<usize> {
    let index = if axis < 0 { axis.checked_add(rank as i64) } else { Some(axis) };
    index
        .and_then(|i| usize::try_from(i).ok())
        .filter(|&i| i < rank)
        .ok_or_else(|| Error::format(format!("axis {axis} of a tensor of {rank} axes")))
}

/// Distinct axes as ascending indices.
pub(super) fn resolve_axes(axes: &[i64], rank: usize) -> Result<Vec<usize>> {
    let mut indices: Vec<usize> =
        axes.iter().map(|&a| resolve_axis(a, rank)).collect::<Result<_>>()?;
    indices.sort_unstable();
    if indices.windows(2).any(|w| w[0] == w[1]) {
        return Err(Error::format(format!("axes {axes:?} repeat one of {rank}")));
    }
    Ok(indices)
}

/// A checked permutation of `rank` axes; absent means reversal.
pub(super) fn permutation(perm: Option<&[i64]>, rank: usize) -> Result<Vec<usize>> {
    let Some(perm) = perm else { return Ok((0..rank).rev().collect()) };
    if perm.len() != rank || resolve_axes(perm, rank).is_err() {
        return Err(Error::format(format!("perm {perm:?} does not permute {rank} axes")));
    }
    perm.iter().map(|&p| resolve_axis(p, rank)).collect()
}

/// Puts numbers in for the 0 (as in the input) and -1 (what remains) of a `Reshape` target.
pub(super) fn resolve_target(
    input: &[SymInt],
    target: &[SymInt],
    allow_zero: bool,
    batch: Option<i64>,
) -> Result<Vec<SymInt>> {
    let mut resolved = target.to_vec();
    let mut open = None;
    for (i, dim) in resolved.iter_mut().enumerate() {
        match dim.value() {
            Some(0) if !allow_zero => {
                *dim = *input.get(i).ok_or_else(|| {
                    Error::shape(format!("0 at axis {i} of a tensor of {} axes", input.len()))
                })?;
            }
            Some(-1) if open.is_some() => {
                return Err(Error::format("more than one -1 in a reshape's target"));
            }
            Some(-1) => open = Some(i),
            Some(n) if n < 0 => {
                return Err(Error::format(format!("extent {n} in a reshape's target")));
            }
            _ => {}
        }
    }
    if let Some(open) = open {
        let product = |dims: &[SymInt]| {
            dims.iter().try_fold(SymInt::known(1), |a, d| a.mul(d.at_batch(batch)?))
        };
        let known = [&resolved[..open], &resolved[open + 1..]].concat();
        let (total, known) = (product(input)?, product(&known)?);
        let rest = total.div(known)?;
        if !rest.mul(known)?.same(total) {
            return Err(Error::shape(format!(
                "cannot reshape {} to {}",
                list(input),
                list(target)
            )));
        }
        resolved[open] = rest;
    }
    Ok(resolved)
}
