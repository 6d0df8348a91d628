#!/usr/bin/env bash
# Brings what the tests need and the machine lacks, or says how to. No test is skipped for want of a tool.
. "$(dirname "$0")/common.sh"

scripts/wasm-target.sh
need_cargo_tool cargo-nextest 0.9.143
# Checks /metrics as Prometheus reads it.
need_package promtool prometheus
# A machine of its own for install.sh, and the judge of its unit.
need_package unshare util-linux
# Networks of nodes that only a test sees, and can cut.
need_package ip iproute2
# Machines behind NAT, and cables that carry one way.
need_package nft nftables
need_package systemd-analyze systemd
# Machines whose clocks are wrong.
need_package faketime faketime
# A real registry, and a real server of S3: sources of components are fetched from them, and objects of
# guests kept in the latter.
need_package docker-registry docker-registry
need_swift
# A real application of FastCGI, and a real server of HTTP; the name of the first has its version in it.
need_php_fpm
need_package php php-cli
# A real authority that gives certificates by ACME, and a judge of TLS.
need_package pebble pebble
need_package testssl testssl.sh
need_package openssl openssl
need_package curl curl
# Gives the tests a terminal.
need_package script bsdutils
# Web servers in front of an agent, none of which is started here.
need_package nginx nginx
need_package apache2 apache2
need_package lighttpd lighttpd
need_package caddy caddy
need_package haproxy haproxy
need_package cgi-fcgi libfcgi-bin
# What bindings name: key-value stores and message queues of an operator.
need_package redis-server redis-server
need_package redis-cli redis-tools
need_package nats-server nats-server
need_newer_nats
need_valkey
# Devices that speak MQTT with the latter, and browsers' protocol without a browser.
need_package mosquitto_sub mosquitto-clients
need_python websockets python3-websockets
# What stands behind the SQL of guests, each server in a folder of a test.
need_postgresql
need_pgvector
need_package setpriv util-linux
# Engines that run models.
need_engines
# Judges tokens by their public keys; a server of mail.
need_python jwt python3-jwt
need_python cryptography python3-cryptography
need_python aiosmtpd python3-aiosmtpd
# Writes a password as Apache reads it.
need_package openssl openssl
