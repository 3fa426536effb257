-- SPDX-License-Identifier: MIT
-- Out of memory in datagrams, waits for descriptors and lookups. How it works: spec/support/oom.lua.

local oom = require "spec.support.oom"

local function scenario(name, body)
  it(name, function()
    oom.scenario_fails_cleanly(body)
  end)
end

describe("running out of memory in", function()
  scenario("datagrams", [[
    local net = require "concur.net"
    runner:run(function()
      local one <close> = assert(net.udp("127.0.0.1", 0))
      local two <close> = assert(net.udp("127.0.0.1", 0))
      local _, port = one:address()
      local receiver = concur.spawn(one.recv_from, one)
      concur.sleep(0)
      assert(two:send_to("hello", "127.0.0.1", port))
      assert(receiver:result() == "hello")
      local chooser = concur.spawn(concur.select, { data = one:receiving() })
      concur.sleep(0)
      assert(two:send_to("again", "localhost", port))
      local _, data = chooser:result()
      assert(data == "again")
      local ok, err = two:send "x"
      assert(ok == nil and err.code == "EDESTADDRREQ")
    end)
  ]])

  scenario("a wait for a descriptor", [[
    local net = require "concur.net"
    runner:run(function()
      local one <close> = assert(net.udp("127.0.0.1", 0))
      local _, port = one:address()
      local waiter = concur.spawn(net.wait_fd, { pollfd = function() return one:fd() end }, "r", 10)
      concur.sleep(0)
      assert(one:send_to("x", "127.0.0.1", port))
      assert(waiter:result() == "r")
      one:recv_from()
      local ok, err = pcall(net.wait_fd, one:fd(), "r", 1)
      if not errors.is(err, "TimeoutError") then error(err, 0) end
    end)
  ]])

  scenario("lookups", [[
    local dns = require "concur.dns"
    runner:run(function()
      assert(#assert(dns.resolve("localhost", 80)) == 2)
      assert(dns.resolve("127.0.0.1", "http")[1].port == 80)
      local ok, err = dns.resolve("no.number", 80, { numeric = true })
      assert(ok == nil and err.code == "EAI_NONAME")
    end)
  ]])
end)
