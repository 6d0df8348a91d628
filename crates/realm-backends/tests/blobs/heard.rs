//! What the operator hears.

use std::sync::Mutex;

use realm_backends::Watch;

#[derive(Default)]
pub(crate) struct Heard(Mutex<Vec<String>>);

impl Heard {
    pub(crate) fn all(&self) -> Vec<String> {
        self.0.lock().unwrap().clone()
    }
}

impl Watch for Heard {
    fn down(&self, cause: &str) {
        self.0.lock().unwrap().push(format!("down {cause}"));
    }

    fn up(&self) {
        self.0.lock().unwrap().push("up".to_owned());
    }
}
