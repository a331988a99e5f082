//! The open grants of a fetch, and which pieces they stand for.

use crate::bitmap::Bitmap;
use crate::time::Instant;
use crate::wire::control::NodeId;

/// A grant that has not ended.
#[derive(Debug, Clone)]
pub(super) struct Grant {
    pub(super) number: u64,
    pub(super) peer: NodeId,
    /// The piece asked for, or the one that the source chose, once its header is here.
    pub(super) piece: Option<u32>,
    /// How many pieces the source may choose from; none when the receiver named one.
    pub(super) offered: u32,
    /// The header of the piece is here.
    pub(super) arriving: bool,
    /// It missed its deadline: its piece may be asked for elsewhere.
    pub(super) overdue: bool,
    pub(super) opened: Instant,
    pub(super) deadline: Instant,
}

impl Grant {
    /// Whether its bytes are arriving in time.
    pub(super) fn is_arriving(&self) -> bool {
        self.arriving && !self.overdue
    }
}

/// All open grants, by rising number, with the sets of pieces that follow from them.
#[derive(Debug)]
pub(super) struct Grants {
    open: Vec<Grant>,
    /// Pieces that some grant that is not overdue stands for.
    asked: Bitmap,
    /// Pieces that two or more grants stand for.
    doubled: Bitmap,
    /// Pieces whose bytes are arriving.
    arriving: Bitmap,
    undecided: usize,
    overdue: usize,
    next_number: u64,
}

impl Grants {
    pub(super) fn new(pieces: u32, first_number: u64) -> Self {
        Self {
            open: Vec::new(),
            asked: Bitmap::new(pieces),
            doubled: Bitmap::new(pieces),
            arriving: Bitmap::new(pieces),
            undecided: 0,
            overdue: 0,
            next_number: first_number,
        }
    }

    pub(super) fn len(&self) -> usize {
        self.open.len()
    }

    /// Grants that have not missed their deadlines.
    pub(super) fn in_time(&self) -> usize {
        self.open.len() - self.overdue
    }

    pub(super) fn asked(&self) -> &Bitmap {
        &self.asked
    }

    pub(super) fn doubled(&self) -> &Bitmap {
        &self.doubled
    }

    pub(super) fn arriving(&self) -> &Bitmap {
        &self.arriving
    }

    /// Grants whose piece is still the source's choice.
    pub(super) fn undecided(&self) -> usize {
        self.undecided
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &Grant> {
        self.open.iter()
    }

    /// The numbers of those grants that are as wanted.
    pub(super) fn numbers(&self, wanted: impl Fn(&Grant) -> bool) -> Vec<u64> {
        self.open.iter().filter(|grant| wanted(grant)).map(|grant| grant.number).collect()
    }

    pub(super) fn find(&self, number: u64) -> Option<&Grant> {
        self.at(number).map(|at| &self.open[at])
    }

    /// Opens a grant for one piece, or for one of `offered` pieces of the source's choice.
    pub(super) fn open(
        &mut self,
        peer: NodeId,
        piece: Option<u32>,
        offered: u32,
        now: Instant,
        deadline: Instant,
    ) -> u64 {
        let number = self.next_number;
        self.next_number += 1;
        let (opened, arriving, overdue) = (now, false, false);
        self.open.push(Grant { number, peer, piece, offered, arriving, overdue, opened, deadline });
        match piece {
            Some(piece) => self.recount(piece),
            None => self.undecided += 1,
        }
        number
    }

    /// The header of `piece` came for a grant.
    pub(super) fn arrives(&mut self, number: u64, piece: u32, deadline: Instant) {
        if let Some(at) = self.at(number) {
            let grant = &mut self.open[at];
            if grant.piece.is_none() {
                self.undecided -= 1;
            }
            grant.piece = Some(piece);
            grant.arriving = true;
            self.overdue -= usize::from(std::mem::take(&mut grant.overdue));
            grant.deadline = deadline;
            self.recount(piece);
        }
    }

    /// The grant missed its deadline; it stays open until another.
    pub(super) fn overdue(&mut self, number: u64, deadline: Instant) {
        if let Some(at) = self.at(number) {
            self.overdue += usize::from(!std::mem::replace(&mut self.open[at].overdue, true));
            self.open[at].deadline = deadline;
            if let Some(piece) = self.open[at].piece {
                self.recount(piece);
            }
        }
    }

    pub(super) fn close(&mut self, number: u64) -> Option<Grant> {
        let grant = self.open.remove(self.at(number)?);
        self.overdue -= usize::from(grant.overdue);
        match grant.piece {
            Some(piece) => self.recount(piece),
            None => self.undecided -= 1,
        }
        Some(grant)
    }

    fn at(&self, number: u64) -> Option<usize> {
        self.open.binary_search_by_key(&number, |grant| grant.number).ok()
    }

    /// Brings the sets up to date on one piece.
    fn recount(&mut self, piece: u32) {
        let (mut asked, mut total, mut arriving) = (0, 0, 0);
        for grant in self.open.iter().filter(|grant| grant.piece == Some(piece)) {
            total += 1;
            asked += u32::from(!grant.overdue);
            arriving += u32::from(grant.is_arriving());
        }
        put(&mut self.asked, piece, asked > 0);
        put(&mut self.doubled, piece, total > 1);
        put(&mut self.arriving, piece, arriving > 0);
    }
}

fn put(set: &mut Bitmap, piece: u32, present: bool) {
    if present {
        set.insert(piece);
    } else {
        set.remove(piece);
    }
}
