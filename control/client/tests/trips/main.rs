//! Round trips of files and streams through a node that lives in the test.

#[cfg(test)]
mod failures;
#[cfg(test)]
mod fake_node;
#[cfg(test)]
mod hostile;
#[cfg(test)]
mod streams;
#[cfg(test)]
mod trees;
