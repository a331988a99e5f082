//! What devices report by themselves (`ibv_get_async_event(3)`).

use crate::sys::{self, ibv_async_event};

/// Something that happened to a device, a port or a queue.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Event {
    /// The link of a port, by its number, came up.
    PortActive(u8),
    /// The link of a port went down.
    PortDown(u8),
    /// Addresses or keys of a port changed.
    AddressesChanged(u8),
    /// The device failed, or was removed. Nothing made from it works any more.
    DeviceFatal,
    /// A queue pair, by its number, failed.
    QueuePairFailed(u32),
    /// A queue pair in the error state will take no more receives from its shared queue.
    LastReceive(u32),
    /// A completion queue overflowed or failed.
    CompletionQueueFailed,
    /// A shared receive queue failed.
    SharedReceiveQueueFailed,
    /// One that is of no concern here, by its number in the header.
    Other(u32),
}

impl Event {
    /// # Safety
    ///
    /// The event came from `ibv_get_async_event` and was not acknowledged, so that what it points to is there.
    pub(super) unsafe fn from_raw(raw: &ibv_async_event) -> Self {
        // SAFETY: the type of the event says which member of the union is set; until the event is acknowledged, the
        // destruction of a queue pair waits.
        let (queue_pair, port) = unsafe {
            match raw.event_type {
                sys::IBV_EVENT_QP_FATAL
                | sys::IBV_EVENT_QP_REQ_ERR
                | sys::IBV_EVENT_QP_ACCESS_ERR
                | sys::IBV_EVENT_QP_LAST_WQE_REACHED => ((*raw.element.qp).qp_num, 0),
                sys::IBV_EVENT_PORT_ACTIVE
                | sys::IBV_EVENT_PORT_ERR
                | sys::IBV_EVENT_LID_CHANGE
                | sys::IBV_EVENT_PKEY_CHANGE
                | sys::IBV_EVENT_GID_CHANGE => (0, raw.element.port_num as u8),
                _ => (0, 0),
            }
        };
        match raw.event_type {
            sys::IBV_EVENT_PORT_ACTIVE => Event::PortActive(port),
            sys::IBV_EVENT_PORT_ERR => Event::PortDown(port),
            sys::IBV_EVENT_LID_CHANGE | sys::IBV_EVENT_PKEY_CHANGE | sys::IBV_EVENT_GID_CHANGE => {
                Event::AddressesChanged(port)
            }
            sys::IBV_EVENT_DEVICE_FATAL => Event::DeviceFatal,
            sys::IBV_EVENT_QP_FATAL | sys::IBV_EVENT_QP_REQ_ERR | sys::IBV_EVENT_QP_ACCESS_ERR => {
                Event::QueuePairFailed(queue_pair)
            }
            sys::IBV_EVENT_QP_LAST_WQE_REACHED => Event::LastReceive(queue_pair),
            sys::IBV_EVENT_CQ_ERR => Event::CompletionQueueFailed,
            sys::IBV_EVENT_SRQ_ERR => Event::SharedReceiveQueueFailed,
            other => Event::Other(other),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::ibv_async_event_element;

    #[test]
    fn events_of_ports_name_the_port() {
        let event = |event_type| {
            let element = ibv_async_event_element { port_num: 2 };
            // SAFETY: none of the events below points to anything.
            unsafe { Event::from_raw(&ibv_async_event { element, event_type }) }
        };
        assert_eq!(event(sys::IBV_EVENT_PORT_ERR), Event::PortDown(2));
        assert_eq!(event(sys::IBV_EVENT_PORT_ACTIVE), Event::PortActive(2));
        assert_eq!(event(sys::IBV_EVENT_DEVICE_FATAL), Event::DeviceFatal);
        assert_eq!(event(4711), Event::Other(4711));
    }
}
