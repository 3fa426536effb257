-- SPDX-License-Identifier: MIT
-- A Unix socket that was bound, and for which no listener could be made then, left its file behind:
-- every later listen at that path said EADDRINUSE.

local faults = require "spec.support.faults"

describe("net.listen{path=} that fails after bind", function()
  it("removes the file", function()
    faults.fail_cleanly(faults.frame([[
      local net = require "concur.net"
      local path = os.tmpname()
      os.remove(path)
      local listener, err = net.listen { path = path }
      if not listener then
        assert(not os.rename(path, path), "the file is there still")
        error(err, 0)
      end
      listener:close()
      assert(not os.rename(path, path))
    ]], { real = true }), faults.handles, { "not enough memory", "ENOMEM", "Cannot allocate" })
  end)
end)
