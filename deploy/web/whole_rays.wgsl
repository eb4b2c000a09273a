// Behind rays.wgsl, where no hull holds all there is: rays have bins from near to far.
fn span(ray: Ray) -> vec2f { return vec2f(near, far); }
