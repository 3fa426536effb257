-- SPDX-License-Identifier: MIT
-- Options of concur.net that made no sense were found late, or never: a server with `limit = 0` waited
-- for ever for room, and one that was given a file as its listener closed that file.

local concur = require "concur"
local net = concur.net

local function message(fn, ...)
  local ok, err = pcall(concur.run, fn, ...)
  assert.is_false(ok)
  return tostring(err)
end

describe("an option of concur.net that makes no sense", function()
  it("is refused by serve", function()
    local function serve(options)
      return message(net.serve, print, "127.0.0.1", 0, options)
    end
    assert.matches("option 'limit' must be at least 1, not 0", serve { limit = 0 })
    assert.matches("option 'limit' must be at least 1", serve { limit = 0 / 0 })
    assert.matches("option 'grace' must be a number of seconds", serve { grace = 0 / 0 })
  end)

  it("is refused by connect", function()
    local function connect(options)
      return message(net.connect, "127.0.0.1", 1, options)
    end
    assert.matches("option 'family' must be 'inet' or 'inet6', not inet5",
      connect { family = "inet5" })
    assert.matches("option 'attempt_delay' must be", connect { attempt_delay = 0 / 0 })
    assert.matches("#3 .*option 'local_address' must be an IP address",
      connect { local_address = "nowhere" })
    assert.matches("#3 .*option 'local_port' must be a port", connect { local_port = 65536 })
  end)

  it("is refused in place of a listener, and left alone", function()
    local file <close> = assert(io.tmpfile())
    assert.matches("bad argument", message(net.serve, print, file))
    assert.equal("file", io.type(file))
  end)
end)
