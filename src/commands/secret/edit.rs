//! The manifest as its author wrote it, with one value changed. Not what the manifest means.

use std::path::{Path, PathBuf};

use realm_model::entry::NamespaceName;
use realm_model::manifest::Manifest;
use realm_model::sealing::Sealed;
use toml_edit::{DocumentMut, Item, Table, Value};

use crate::diagnostics;
use crate::failure::Failure;
use crate::files::{read_text, write};

/// Stands for a secret that is yet to be sealed.
pub(super) const PLACEHOLDER: &str = "age-encrypted:AAAA";

/// A manifest that is being changed.
pub(super) struct Document {
    path: PathBuf,
    document: DocumentMut,
}

impl Document {
    pub(super) fn read(path: &Path) -> Result<Self, Failure> {
        let text = read_text(path)?;
        let document = text.parse().map_err(|error: toml_edit::TomlError| {
            Failure::from_error("invalid-manifest", &error)
                .context(format!("`{}` is no TOML", path.display()))
        })?;
        Ok(Self {
            path: path.to_owned(),
            document,
        })
    }

    pub(super) fn has(&self, name: &str) -> bool {
        self.text_of(name).is_some()
    }

    /// A secret as it stands there, in the manifest of this namespace.
    pub(super) fn sealed(&self, namespace: NamespaceName, name: &str) -> Option<Sealed> {
        let text = self.text_of(name)?;
        Some(Sealed::new(namespace, name, text.to_owned()))
    }

    fn text_of(&self, name: &str) -> Option<&str> {
        let secrets = self.document.get("secrets")?.as_table_like()?;
        secrets.get(name)?.as_str()
    }

    /// What the manifest would mean with this text for a secret; every problem is told.
    pub(super) fn with(&self, name: &str, text: &str, json: bool) -> Result<Manifest, Failure> {
        let mut changed = Self {
            path: self.path.clone(),
            document: self.document.clone(),
        };
        changed.put(name, text)?;
        let text = changed.document.to_string();
        let (manifest, problems) = realm_model::manifest::parse(&text);
        manifest.ok_or_else(|| {
            let path = self.path.display().to_string();
            if !json {
                diagnostics::report(&path, &text, &problems);
            }
            let count = diagnostics::count(&problems);
            Failure::new("invalid-manifest", format!("`{path}` has {count}"))
                .hint("docs/manifest.md describes every key; `realm schema` is for your editor")
        })
    }

    /// Puts a text in place of a secret, or adds it; everything else stays as it is written.
    pub(super) fn put(&mut self, name: &str, text: &str) -> Result<(), Failure> {
        let secrets = self
            .document
            .entry("secrets")
            .or_insert_with(|| Item::Table(Table::new()));
        let path = self.path.display();
        let secrets = secrets.as_table_like_mut().ok_or_else(|| {
            Failure::new(
                "invalid-manifest",
                format!("`secrets` in `{path}` is no table"),
            )
        })?;
        let mut value = Value::from(text);
        match secrets.get_mut(name) {
            Some(Item::Value(before)) => {
                // A comment behind it, and the spaces around it, are its author's.
                *value.decor_mut() = before.decor().clone();
                *before = value;
            }
            Some(_) | None => drop(secrets.insert(name, Item::Value(value))),
        }
        Ok(())
    }

    pub(super) fn write(&self) -> Result<(), Failure> {
        write(&self.path, self.document.to_string().as_bytes())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(before: &str, name: &str, after: &str) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("realm.toml");
        std::fs::write(&path, before).unwrap();
        let mut document = Document::read(&path).unwrap();
        document.put(name, "age-encrypted:BBBB").unwrap();
        document.write().unwrap();
        assert_eq!(std::fs::read_to_string(&path).unwrap(), after);
        assert!(Document::read(&path).unwrap().has(name));
    }

    #[test]
    fn everything_else_stays_as_its_author_wrote_it() {
        check("", "a", "[secrets]\na = \"age-encrypted:BBBB\"\n");
        check(
            "# mine\n[components.x]\nsource = 'file:x'   # here\n",
            "a",
            "# mine\n[components.x]\nsource = 'file:x'   # here\n\n[secrets]\na = \"age-encrypted:BBBB\"\n",
        );
        check(
            "[secrets] # all\nb='x'\n a  =  'age-encrypted:AAAA' # key\n\n[nodes]\n",
            "a",
            "[secrets] # all\nb='x'\n a  =  \"age-encrypted:BBBB\" # key\n\n[nodes]\n",
        );
        check(
            "secrets = { a = 'x', b = 'y' }\n",
            "b",
            "secrets = { a = 'x', b = \"age-encrypted:BBBB\" }\n",
        );
        check(
            "[secrets]\n",
            "a.b",
            "[secrets]\n\"a.b\" = \"age-encrypted:BBBB\"\n",
        );
    }

    #[test]
    fn what_is_no_table_is_left_alone() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("realm.toml");
        for text in ["secrets = 1\n", "[[secrets]]\n"] {
            std::fs::write(&path, text).unwrap();
            let mut document = Document::read(&path).unwrap();
            let failure = document.put("a", "age-encrypted:BBBB").unwrap_err();
            assert!(failure.is("invalid-manifest"), "{text}");
        }
    }
}
