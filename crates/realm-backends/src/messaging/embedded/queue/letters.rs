//! What the queue does with dead letters for whoever looks after it.

use realm_model::cloud::{CloudError, DEAD_GROUP, topic_matches};

use super::Queue;
use crate::messaging::embedded::tables::{Broken, Tables};

impl Queue {
    /// Has a letter delivered again to the group in which it died, or drops it: whether it was there. The outer
    /// error is the file's.
    pub(super) fn settle_letter(
        &mut self,
        tables: &mut Tables<'_>,
        number: u64,
        is_retried: bool,
    ) -> Result<Result<bool, CloudError>, Broken> {
        let Some(letter) = tables.letter(number)? else {
            return Ok(Ok(false));
        };
        if is_retried {
            let pairs = letter.message.metadata.iter();
            let mut names = pairs.filter(|(key, _)| key == DEAD_GROUP);
            let name = names.next().map(|(_, name)| name.clone());
            let message = letter.message.into_alive();
            let topic = message.topic.clone().unwrap_or_default();
            let groups = self.groups.iter().filter(|(_, shared)| {
                Some(&shared.group.name) == name.as_ref()
                    && topic_matches(&shared.group.topic, &topic)
            });
            let groups: Vec<u32> = groups.map(|(number, _)| *number).collect();
            if groups.is_empty() {
                return Ok(Err(CloudError::NotFound("the group in which it died")));
            }
            let room = Some(self.setting.room);
            if let Err(error) = tables.send(&groups, &message.to_bytes(), 0, room)? {
                return Ok(Err(error));
            }
            for group in groups {
                self.noticed(group, 0);
            }
        }
        tables.drop_letter(number)?;
        Ok(Ok(true))
    }
}
