//! Which replica of a component may be replaced next, all over the realm and without a leader.
//!
//! Every node decides about its own replicas by the same rule over what the others say of themselves.
//! Each condition rests on something positive that a node said and does not take back: a view that is
//! behind waits for too long, and never goes too far. The places are divided into as many rows as
//! may be under way at once; in each row they go one after the other. Where the places themselves change
//! in the middle of that, so do the turns: what is under way then is finished, and the others wait for it.
//! Not here: who has which place (`place`), what is said (`around`), and how one replica takes over from
//! another (`plan`).

use realm_model::manifest::Budget;

/// What is known of one place.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct SeatFact {
    /// Whether its node has heard of the version that is wanted, so that it goes by the same rule.
    pub(crate) heard: bool,
    /// Whether a replica takes requests there, of whatever version, and nothing is under way there that
    /// the others cannot know of.
    pub(crate) up: bool,
    /// Whether the wanted version has been healthy there for long enough.
    pub(crate) ready: bool,
}

/// What is to become of a new replica that starts beside an old one in a place. It began when it was the
/// turn of that place; by now the places may be others, and with them the turns.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Begun {
    /// It is its turn.
    InTurn,
    /// By the turns alone nobody would know of it: all wait for it.
    OutOfTurn,
    /// Where the old one stops first there are never two.
    OneTooMany,
}

impl Begun {
    pub(crate) fn of(seats: &[SeatFact], budget: Budget, index: usize) -> Self {
        let rows = Rows::of(seats, budget);
        match (rows.stops_first(index), rows.is_next(index)) {
            (true, _) => Self::OneTooMany,
            (false, false) => Self::OutOfTurn,
            (false, true) => Self::InTurn,
        }
    }
}

/// What a place may do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Gate {
    /// The new replica starts beside the old one.
    StartFirst,
    /// The old replica goes, then the new one starts.
    StopFirst,
    /// It is not its turn.
    Shut,
}

/// What each place may do.
pub(crate) fn gates(seats: &[SeatFact], budget: Budget) -> Vec<Gate> {
    let rows = Rows::of(seats, budget);
    let all_heard = seats.iter().all(|seat| seat.heard);
    // A place that is down has used the budget up already, unless it is down for its own turn.
    let none_missing = seats
        .iter()
        .enumerate()
        .all(|(index, seat)| seat.up || rows.stops_first(index) && rows.is_next(index));
    let gate = |(index, seat): (usize, &SeatFact)| {
        // What is down cannot make it worse; what is ready has nothing left to do.
        if !seat.up || seat.ready {
            return Gate::StartFirst;
        }
        if !all_heard || !none_missing || !rows.is_next(index) {
            return Gate::Shut;
        }
        match rows.stops_first(index) {
            true => Gate::StopFirst,
            false => Gate::StartFirst,
        }
    };
    seats.iter().enumerate().map(gate).collect()
}

/// The places in rows: the first ones start first, as many as there may be in addition; in the others the
/// old one stops first, as many as may be missing.
struct Rows {
    surge: usize,
    /// The first place of each row that is not ready.
    next: Vec<Option<usize>>,
}

impl Rows {
    fn of(seats: &[SeatFact], budget: Budget) -> Self {
        let surge = budget.surge as usize;
        let count = (surge + budget.unavailable as usize).max(1);
        let next = (0..count)
            .map(|row| {
                let mut places = (row..seats.len()).step_by(count);
                places.find(|index| !seats[*index].ready)
            })
            .collect();
        Self { surge, next }
    }

    fn row(&self, index: usize) -> usize {
        index % self.next.len()
    }

    fn stops_first(&self, index: usize) -> bool {
        self.row(index) >= self.surge
    }

    fn is_next(&self, index: usize) -> bool {
        self.next[self.row(index)] == Some(index)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A place is `u`p, `d`own, up and `r`eady, or has n`o`t heard; then what each may do: `S`tart first,
    /// sto`P` first, or not (`.`).
    fn check(seats: &str, (surge, unavailable): (u32, u32), expected: &str) {
        let fact = |letter| SeatFact {
            heard: letter != 'o',
            up: letter != 'd',
            ready: letter == 'r',
        };
        let seats: Vec<SeatFact> = seats.chars().map(fact).collect();
        let gates = gates(&seats, Budget { surge, unavailable });
        let letter = |gate| match gate {
            Gate::StartFirst => 'S',
            Gate::StopFirst => 'P',
            Gate::Shut => '.',
        };
        let found: String = gates.into_iter().map(letter).collect();
        assert_eq!(found, expected);
    }

    #[test]
    fn so_many_at_once_and_each_row_in_order() {
        check("uuuu", (1, 0), "S...");
        check("ruuu", (1, 0), "SS..");
        check("uuuu", (2, 0), "SS..");
        check("uuuu", (0, 1), "P...");
        check("ruuu", (0, 1), "SP..");
        check("uuuu", (1, 1), "SP..");
        check("rurr", (1, 1), "SPSS");
        check("rrrr", (1, 1), "SSSS");
        // The second row is done with its first place, the first one is not.
        check("urru", (1, 1), "SSSP");
        check("u", (1, 0), "S");
        check("", (1, 0), "");
    }

    #[test]
    fn what_was_begun_may_be_out_of_turn() {
        let fact = |letter| SeatFact {
            heard: true,
            up: true,
            ready: letter == 'r',
        };
        let check = |seats: &str, (surge, unavailable), expected: &str| {
            let seats: Vec<SeatFact> = seats.chars().map(fact).collect();
            let budget = Budget { surge, unavailable };
            let letter = |index| match Begun::of(&seats, budget, index) {
                Begun::InTurn => '.',
                Begun::OutOfTurn => 'o',
                Begun::OneTooMany => 'm',
            };
            let found: String = (0..seats.len()).map(letter).collect();
            assert_eq!(found, expected);
        };
        check("uuu", (1, 0), ".oo");
        check("ruu", (1, 0), "o.o");
        check("uuuu", (2, 0), "..oo");
        check("uuuu", (1, 1), ".mom");
        check("uuu", (0, 1), "mmm");
    }

    #[test]
    fn nobody_goes_before_all_have_heard_or_while_another_is_missing() {
        check("uuou", (1, 1), "....");
        check("rruo", (2, 0), "SS..");
        // Down for its own turn: the other row goes on, its own does not.
        check("udrr", (1, 1), "SSSS");
        check("uduu", (1, 1), "SS..");
        // Down before its turn, or where nothing stops first: only what is down may start.
        check("uuud", (1, 1), "...S");
        check("duuu", (1, 1), "S...");
        check("uudu", (0, 1), "..S.");
        check("duuu", (0, 1), "S...");
        check("dddd", (0, 1), "SSSS");
        // What is down starts whatever the others have heard.
        check("doou", (1, 0), "S...");
    }
}
