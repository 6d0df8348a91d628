//! Which records of a log hold the entries of a sequence number. Almost always one record, right after
//! that of the number before, so that runs are remembered and not records.

/// The records of one log by the sequence number of their entry.
#[derive(Debug, Default)]
pub(super) struct Index {
    runs: Vec<Run>,
}

/// Entries in the order of their numbers, record after record.
#[derive(Debug, Clone, Copy)]
struct Run {
    seq: u64,
    record: u64,
    length: u64,
}

impl Index {
    /// Remembers the next record of the log.
    pub(super) fn push(&mut self, seq: u64, record: u64) {
        if let Some(last) = self.runs.last_mut()
            && (last.seq + last.length, last.record + last.length) == (seq, record)
        {
            last.length += 1;
            return;
        }
        self.runs.push(Run {
            seq,
            record,
            length: 1,
        });
    }

    /// The records whose entries have the number `seq`, oldest first: more than one where a history
    /// was abandoned.
    pub(super) fn of(&self, seq: u64) -> impl Iterator<Item = u64> + '_ {
        self.runs.iter().filter_map(move |run| {
            let at = seq.checked_sub(run.seq)?;
            (at < run.length).then(|| run.record + at)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::Index;

    /// `seqs`: of the records 0, 1, …
    fn check(seqs: &[u64], runs: usize) {
        let mut index = Index::default();
        for (record, seq) in (0..).zip(seqs) {
            index.push(*seq, record);
        }
        assert_eq!(index.runs.len(), runs, "{seqs:?}");
        for asked in 0..12 {
            let found: Vec<u64> = index.of(asked).collect();
            let expected: Vec<u64> = (0..)
                .zip(seqs)
                .filter_map(|(record, seq)| (*seq == asked).then_some(record))
                .collect();
            assert_eq!(found, expected, "entry {asked} of {seqs:?}");
        }
    }

    #[test]
    fn every_record_of_a_number_is_found() {
        check(&[], 0);
        check(&[0, 1, 2, 3], 1);
        check(&[1, 2, 3, 4, 5], 1);
        // Two histories from 3 on, the second one longer.
        check(&[1, 2, 3, 4, 3, 4, 5, 6], 2);
        // Two owners at once, again and again.
        check(&[1, 2, 2, 3, 3, 3, 1], 5);
        // Numbers that were lost in damage.
        check(&[1, 2, 7, 8], 2);
    }
}
