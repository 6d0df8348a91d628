//! Why a string of a manifest is not what it should be. Not where it stands: the reader knows that.

use crate::codes;
use crate::fields::cut;
use crate::name;

/// A string is not of the form that was expected.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct ValueError {
    /// A code of [`crate::codes`].
    pub code: &'static str,
    /// What is wrong, with values; lower case, no full stop.
    pub message: String,
    /// What to write instead, if that is known.
    pub hint: Option<String>,
}

impl ValueError {
    pub(crate) fn new(code: &'static str, message: impl Into<String>) -> Self {
        Self {
            code,
            message: message.into(),
            hint: None,
        }
    }

    pub(crate) fn hint(mut self, hint: Option<impl Into<String>>) -> Self {
        self.hint = hint.map(Into::into);
        self
    }
}

/// A name of a tag or a secret: the rule of a node's name.
pub(crate) fn plain_name(text: &str, what: &'static str) -> Result<String, ValueError> {
    name::check(text, what, &['-', '_', '.'])
        .map_err(|error| ValueError::new(codes::BAD_NAME, error.to_string()))?;
    Ok(text.to_owned())
}

/// A string that a program gets as it is: any text without NUL, which ends a string in C.
pub(crate) fn without_nul(text: &str) -> Result<String, ValueError> {
    if text.contains('\0') {
        let message = format!("`{}` contains a NUL character", cut(text));
        return Err(ValueError::new(codes::BAD_VALUE, message));
    }
    Ok(text.to_owned())
}
