-- SPDX-License-Identifier: MIT
-- Streams and sockets when memory or descriptors run out at any point, and when system calls are
-- interrupted: an error that says so, nothing leaked, the loop usable. How: spec/support/faults.lua.

local faults = require "spec.support.faults"
local oom = require "spec.support.oom"

-- Every expected failure is raised, so that a scenario ends with it.
local EXCHANGE = [[
  local net = require "concur.net"
  concur.run(function()
    local one, other = net.socketpair()
    local first <close> = assert(one, other)
    local second <close> = other
    concur.task_group(function(group)
      group:spawn(function()
        for i = 1, 3 do
          assert(one:write("line ", i, "\n", ("x"):rep(5000), "\n"))
          assert(one:write("more ", i, "\n"))
          concur.checkpoint()
        end
        assert(one:write(("y"):rep(300000)))
        assert(one:shutdown())
      end)
      for i = 1, 3 do
        local line, rest, more = other:read("l", "L", "l")
        if line ~= "line " .. i then error(rest or "?", 0) end
        if #rest ~= 5001 then error(rest, 0) end
        if more ~= "more " .. i then error(more or "?", 0) end
      end
      local all = assert(other:read "a")
      assert(#all == 300000)
      local none, err = other:read_until "|"
      if err then error(err, 0) end
      assert(none == nil)
    end)
  end)
]]

local SERVER = [[
  local net = require "concur.net"
  concur.run(function()
    local listener <close> = assert(net.listen("127.0.0.1", 0))
    local _, port = listener:address()
    local failure
    local server = concur.spawn(net.serve, function(stream)
      for line in stream:lines() do
        assert(stream:write(line, "\n"))
      end
    end, listener, { grace = 0, on_error = function(err)
      failure = failure or err
      listener:close() -- else a client waits for an answer that does not come
    end })
    server:add_done_callback(function() -- it may not even have begun
      listener:close()
    end)
    local ok, err = pcall(function()
      local stream <close> = assert(net.connect("127.0.0.1", port))
      assert(stream:write "hello\n")
      local answer, err = stream:read()
      if answer ~= "hello" then error(failure or err or "not enough memory", 0) end
    end)
    listener:close()
    concur.wait { server }
    concur.checkpoint()
    -- A server that had not begun finds its listener closed, which is not what failed.
    if server:state() == "failed" and server:exception().kind ~= "Closed" then
      error(server:exception(), 0)
    end
    if failure then error(failure, 0) end
    if not ok then error(err, 0) end
  end)
]]

local ALLOWED = { "not enough memory", "ENOMEM", "EMFILE", "Cannot allocate", "out of memory" }

describe("running out of the Lua state's memory in", function()
  it("an exchange over a stream", function()
    oom.fails_cleanly(faults.frame(EXCHANGE, { real = true }))
  end)

  -- Not without end: then not even the callback that ends the server can run.
  it("a server and its client", function()
    faults.fail_cleanly(faults.frame(SERVER, { real = true }), false, ALLOWED, { times = { "2" } })
  end)
end)

describe("calls that fail in", function()
  for _, kind in ipairs { "memory", "descriptors" } do
    it("an exchange over a stream (" .. kind .. ")", function()
      faults.fail_cleanly(faults.frame(EXCHANGE, { real = true }), faults[kind], ALLOWED)
    end)

    it("a server and its client (" .. kind .. ")", function()
      faults.fail_cleanly(faults.frame(SERVER, { real = true }), faults[kind], ALLOWED)
    end)
  end

  it("system calls that are interrupted", function()
    for _, body in ipairs { EXCHANGE, SERVER } do
      faults.fail_cleanly(faults.frame(body, { real = true }), faults.interrupted,
        { "there is no such error" }, { times = { "1", "7" }, errno = 4 })
    end
  end)
end)
