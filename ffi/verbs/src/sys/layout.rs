//! The bindings against the headers of this machine: a small C program prints what the compiler makes of them.

use std::fmt::Write;
use std::mem::{offset_of, size_of};
use std::process::{Command, Output};

use super::*;

/// Status of a program that was compiled without its header.
const NO_HEADER: i32 = 77;

/// What C code would print, and what Rust says, in the same order.
#[derive(Default)]
struct Comparison {
    program: String,
    expected: String,
}

impl Comparison {
    fn value(&mut self, name: &str, expression: &str, ours: usize) {
        writeln!(self.program, "printf(\"{name} %zu\\n\", (size_t)({expression}));").unwrap();
        writeln!(self.expected, "{name} {ours}").unwrap();
    }
}

/// Compares sizes of structures and places of fields.
macro_rules! layout {
    ($to:ident, $($c:literal $rust:ident { $($($part:ident).+),* $(,)? })*) => {
        $(
            $to.value($c, &format!("sizeof({})", $c), size_of::<$rust>());
            $(
                let field = stringify!($($part).+).replace(' ', "");
                let expression = format!("offsetof({}, {field})", $c);
                $to.value(&format!("{}.{field}", $c), &expression, offset_of!($rust, $($part).+));
            )*
        )*
    };
}

fn structures(to: &mut Comparison) {
    layout! { to,
        "struct ibv_device" ibv_device {
            _ops, node_type, transport_type, name, dev_name, dev_path, ibdev_path,
        }
        "struct ibv_context_ops" ibv_context_ops {
            poll_cq, req_notify_cq, post_srq_recv, post_send, post_recv,
        }
        "struct ibv_context" ibv_context {
            device, ops, cmd_fd, async_fd, num_comp_vectors, mutex, abi_compat,
        }
        "struct ibv_device_attr" ibv_device_attr {
            fw_ver, node_guid, sys_image_guid, max_mr_size, page_size_cap, vendor_id, vendor_part_id, hw_ver, max_qp,
            max_qp_wr, device_cap_flags, max_sge, max_sge_rd, max_cq, max_cqe, max_mr, max_pd, max_qp_rd_atom,
            max_ee_rd_atom, max_res_rd_atom, max_qp_init_rd_atom, max_ee_init_rd_atom, atomic_cap, max_ee, max_rdd,
            max_mw, max_raw_ipv6_qp, max_raw_ethy_qp, max_mcast_grp, max_mcast_qp_attach, max_total_mcast_qp_attach,
            max_ah, max_fmr, max_map_per_fmr, max_srq, max_srq_wr, max_srq_sge, max_pkeys, local_ca_ack_delay,
            phys_port_cnt,
        }
        "struct ibv_port_attr" ibv_port_attr {
            state, max_mtu, active_mtu, gid_tbl_len, port_cap_flags, max_msg_sz, bad_pkey_cntr, qkey_viol_cntr,
            pkey_tbl_len, lid, sm_lid, lmc, max_vl_num, sm_sl, subnet_timeout, init_type_reply, active_width,
            active_speed, phys_state, link_layer, flags, port_cap_flags2,
        }
        "union ibv_gid" ibv_gid { raw }
        "struct ibv_gid_entry" ibv_gid_entry { gid, gid_index, port_num, gid_type, ndev_ifindex }
        "struct ibv_async_event" ibv_async_event { element, event_type }
        "struct ibv_pd" ibv_pd { context, handle }
        "struct ibv_mr" ibv_mr { context, pd, addr, length, handle, lkey, rkey }
        "struct ibv_comp_channel" ibv_comp_channel { context, fd, refcnt }
        "struct ibv_cq" ibv_cq {
            context, channel, cq_context, handle, cqe, mutex, cond, comp_events_completed, async_events_completed,
        }
        "struct ibv_srq" ibv_srq { context, srq_context, pd, handle, mutex, cond, events_completed }
        "struct ibv_srq_attr" ibv_srq_attr { max_wr, max_sge, srq_limit }
        "struct ibv_srq_init_attr" ibv_srq_init_attr { srq_context, attr }
        "struct ibv_qp" ibv_qp {
            context, qp_context, pd, send_cq, recv_cq, srq, handle, qp_num, state, qp_type, mutex, cond,
            events_completed,
        }
        "struct ibv_qp_cap" ibv_qp_cap {
            max_send_wr, max_recv_wr, max_send_sge, max_recv_sge, max_inline_data,
        }
        "struct ibv_qp_init_attr" ibv_qp_init_attr {
            qp_context, send_cq, recv_cq, srq, cap, qp_type, sq_sig_all,
        }
        "struct ibv_global_route" ibv_global_route { dgid, flow_label, sgid_index, hop_limit, traffic_class }
        "struct ibv_ah_attr" ibv_ah_attr { grh, dlid, sl, src_path_bits, static_rate, is_global, port_num }
        "struct ibv_qp_attr" ibv_qp_attr {
            qp_state, cur_qp_state, path_mtu, path_mig_state, qkey, rq_psn, sq_psn, dest_qp_num, qp_access_flags, cap,
            ah_attr, alt_ah_attr, pkey_index, alt_pkey_index, en_sqd_async_notify, sq_draining, max_rd_atomic,
            max_dest_rd_atomic, min_rnr_timer, port_num, timeout, retry_cnt, rnr_retry, alt_port_num, alt_timeout,
            rate_limit,
        }
        "struct ibv_sge" ibv_sge { addr, length, lkey }
        "struct ibv_mw_bind_info" ibv_mw_bind_info { mr, addr, length, mw_access_flags }
        "struct ibv_send_wr" ibv_send_wr {
            wr_id, next, sg_list, num_sge, opcode, send_flags, imm_data,
            wr.rdma.remote_addr, wr.rdma.rkey, wr.atomic.remote_addr, wr.atomic.compare_add, wr.atomic.swap,
            wr.atomic.rkey, qp_type, bind_mw.mw, bind_mw.rkey, bind_mw.bind_info,
        }
        "struct ibv_recv_wr" ibv_recv_wr { wr_id, next, sg_list, num_sge }
        "struct ibv_wc" ibv_wc {
            wr_id, status, opcode, vendor_err, byte_len, imm_data, qp_num, src_qp, wc_flags, pkey_index, slid, sl,
            dlid_path_bits,
        }
    }
}

fn structures_of_connections(to: &mut Comparison) {
    layout! { to,
        "struct rdma_event_channel" rdma_event_channel { fd }
        "struct rdma_ib_addr" rdma_ib_addr { sgid, dgid, pkey }
        "struct rdma_addr" rdma_addr { src_storage, dst_storage, addr }
        "struct rdma_route" rdma_route { addr, path_rec, num_paths }
        "struct rdma_cm_id" rdma_cm_id {
            verbs, channel, context, qp, route, ps, port_num, event, send_cq_channel, send_cq, recv_cq_channel, recv_cq,
            srq, pd, qp_type,
        }
        "struct rdma_conn_param" rdma_conn_param {
            private_data, private_data_len, responder_resources, initiator_depth, flow_control, retry_count,
            rnr_retry_count, srq, qp_num,
        }
        "struct rdma_ud_param" rdma_ud_param { private_data, private_data_len, ah_attr, qp_num, qkey }
        "struct rdma_cm_event" rdma_cm_event { id, listen_id, event, status, param }
    }
}

#[test]
fn bindings_are_what_the_headers_declare() {
    let mut comparison = Comparison::default();
    structures(&mut comparison);
    for (name, value) in constants::ALL {
        comparison.value(name, name, *value as usize);
    }
    comparison.value("IBV_SYSFS_NAME_MAX", "IBV_SYSFS_NAME_MAX", IBV_SYSFS_NAME_MAX);
    comparison.value("IBV_SYSFS_PATH_MAX", "IBV_SYSFS_PATH_MAX", IBV_SYSFS_PATH_MAX);
    comparison.check("infiniband/verbs.h", "libibverbs-dev");
}

#[test]
fn bindings_of_connections_are_what_the_headers_declare() {
    let mut comparison = Comparison::default();
    structures_of_connections(&mut comparison);
    for (name, value) in connection::ALL {
        comparison.value(name, name, *value as usize);
    }
    comparison.check("rdma/rdma_cma.h", "librdmacm-dev");
}

impl Comparison {
    fn check(&self, header: &str, package: &str) {
        let Some(ran) = compile_and_run(header, &self.program) else {
            eprintln!("skipped: there is no C compiler by the name of cc");
            return;
        };
        if ran.status.code() == Some(NO_HEADER) {
            eprintln!("skipped: the compiler finds no {header} (apt install {package})");
            return;
        }
        assert!(ran.status.success());
        let printed = String::from_utf8(ran.stdout).unwrap();
        let differing: Vec<_> =
            printed.lines().zip(self.expected.lines()).filter(|(theirs, ours)| theirs != ours).collect();
        assert!(differing.is_empty(), "header and bindings differ: {differing:#?}");
        assert_eq!(printed, self.expected);
    }
}

/// What the program does, or nothing when there is no C compiler.
fn compile_and_run(header: &str, body: &str) -> Option<Output> {
    let directory = tempfile::tempdir().unwrap();
    let (source, binary) = (directory.path().join("layout.c"), directory.path().join("layout"));
    let program = format!(
        "#if !__has_include(<{header}>)\nint main(void) {{ return {NO_HEADER}; }}\n#else\n\
         #include <stddef.h>\n#include <stdio.h>\n#include <{header}>\n\
         int main(void) {{\n{body}return 0; }}\n#endif\n"
    );
    std::fs::write(&source, program).unwrap();
    let compiled = match Command::new("cc").arg(&source).arg("-o").arg(&binary).output() {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return None,
        other => other.unwrap(),
    };
    assert!(compiled.status.success(), "cc: {}", String::from_utf8_lossy(&compiled.stderr));
    Some(Command::new(&binary).output().unwrap())
}
