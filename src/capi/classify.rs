//! Image files to classes.

use std::time::Instant;

use super::abi::skipstone_class;
use super::model::Texts;
use super::status::{Failure, Outcome};
use crate::session::Session;

/// The `k` best classes of a JPEG or PNG file, best first.
#[cfg(feature = "image")]
pub(super) fn best_classes(
    session: &Session,
    texts: &Texts,
    file: &[u8],
    deadline: Option<Instant>,
    k: usize,
) -> Outcome<Vec<skipstone_class>> {
    use crate::classes::{Scores, top};
    use crate::image::{Limits, decode};
    use crate::session::{SessionPort, TensorView};

    let [input] = session.inputs() else {
        return Err(Failure::invalid("the model has several inputs, expected one image"));
    };
    let recipe = session.model().recipe();
    let recipe = recipe.ok_or_else(|| Failure::invalid("the model has no preprocessing recipe"))?;
    let pixels = recipe.prepare(&decode(file, &Limits::default())?)?;
    if (pixels.height(), pixels.width()) != (input.shape.h, input.shape.w) {
        return Err(crate::Error::shape(format!(
            "the recipe makes {}x{} of this image, the session takes {}x{}",
            pixels.height(),
            pixels.width(),
            input.shape.h,
            input.shape.w
        ))
        .into());
    }
    let output = |port: &SessionPort| vec![0.0; port.shape.len()];
    let mut outputs: Vec<Vec<f32>> = session.outputs().iter().map(output).collect();
    let mut places: Vec<&mut [f32]> = outputs.iter_mut().map(Vec::as_mut_slice).collect();
    session.run(&[TensorView::pixels(pixels.data())], &mut places, deadline)?;
    let scores = Scores::of(session.model().graph()).probabilities(&outputs[0]);
    let class = |index: usize| skipstone_class {
        struct_size: size_of::<skipstone_class>() as u32,
        index: index as u32,
        score: scores[index],
        reserved: 0,
        label: texts.labels.get(index).map_or(std::ptr::null(), |label| label.as_ptr()),
    };
    Ok(top(&scores, k).into_iter().map(class).collect())
}

#[cfg(not(feature = "image"))]
pub(super) fn best_classes(
    _: &Session,
    _: &Texts,
    _: &[u8],
    _: Option<Instant>,
    _: usize,
) -> Outcome<Vec<skipstone_class>> {
    let message = "this library was built without image decoding (the feature `image`)";
    Err(Failure::new(super::SKIPSTONE_ERROR_UNSUPPORTED, message))
}
